"""The metadata of the package: links that work on an index page, and `pip install` lines that work in a clone."""

import re
from pathlib import Path

from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"\]\(([^)]+)\)")
SOURCES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("pacs/**/*.py"), *ROOT.glob("examples/**/*.py")]


def metadata():
    """Return the metadata that a build would have."""
    return ProjectMetadata(str(ROOT), PluginManager()).core


def test_every_link_is_absolute_when_the_address_of_the_project_is_known(monkeypatch):
    """Each file that is linked exists in the repository."""
    monkeypatch.setenv("PACS_PROJECT_URL", "https://example.org/pacs/")
    made = metadata()
    links = LINK.findall(made.readme)
    assert len(links) > 20
    for link in links:
        path, _, _ = link.removeprefix("https://example.org/pacs/blob/main/").partition("#")
        assert (ROOT / path).is_file(), link
    assert made.urls["Source"] == "https://example.org/pacs"
    assert made.urls["Changelog"] == "https://example.org/pacs/blob/main/CHANGELOG.md"


def test_no_link_is_broken_when_the_address_is_unknown(monkeypatch):
    """Their texts stay."""
    monkeypatch.delenv("PACS_PROJECT_URL", raising=False)
    made = metadata()
    assert LINK.findall(made.readme) == []
    assert "set up access, TLS and" in " ".join(made.readme.split())
    assert made.urls == {}


def test_the_classifiers_name_the_versions_of_python():
    """Those from `requires-python` on."""
    made = metadata()
    assert made.requires_python == ">=3.11"
    assert {"Programming Language :: Python :: 3.11", "Programming Language :: Python :: 3.13"} <= set(made.classifiers)


def test_nothing_tells_to_install_a_package_that_is_on_no_index():
    """In a clone it is `pip install .`, with an extra `'.[jwt]'`; a message names the package that is missing."""
    wrong = [str(path) for path in SOURCES if re.search(r"pip install [^`\n]*pacs-archive", path.read_text("utf-8"))]
    assert wrong == []
