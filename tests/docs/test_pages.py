"""README.md and docs/: links lead somewhere, commands run, configurations load, generated pages are up to date."""

import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import click
import pytest

from docs import generate
from pacs.cli import main
from pacs.config import load
from pacs.testing import serving, study, write
from tests.certificates import Authority
from tests.databases import postgres_database
from tests.docs.pages import DOCS, PAGES, ROOT, Block, block, blocks_of, type_in
from tests.programs import free_port

NOT_RUN = {
    DOCS / "matrix.md": "it needs other servers; tests/conformance runs the command against this one",
    DOCS / "benchmarks.md": "it measures for an hour; tests/benchmarks runs the benchmarks with the smallest loads",
    DOCS / "reliability.md": "it kills and fuzzes for minutes; tests/crash and tests/hostile have the short forms",
}
"""Pages whose `sh` blocks are not run, and why."""

BLOCKS = [each for page in PAGES if page.parent != DOCS / "reference" for each in blocks_of(page)]
PLAIN = [each for each in BLOCKS if not each.note]
TYPED = sorted(
    {each.page for each in PLAIN if each.language == "sh"} - {ROOT / "README.md", DOCS / "explain.md", *NOT_RUN}
)
"""Pages whose `sh` blocks are typed here; README.md and explain.md have tests of their own."""


def name_of(value: object) -> str:
    """Return a short name for a parameter."""
    page = value.page if isinstance(value, Block) else value
    return str(page.relative_to(ROOT)) if isinstance(page, Path) else str(page)


# --- the site ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built from a copy of the documentation; a dead link or anchor ends the build."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(DOCS, folder / "docs", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "zensical.toml", folder)
    command = [Path(sys.executable).parent / "zensical", "build", "--strict"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, re.sub(r"\x1b\[[\d;]*m", "", ran.stdout + ran.stderr)
    return folder / "site"


def test_the_site_has_every_page(site):
    """Each Markdown file is a page, and the navigation on the home page names each."""
    home = (site / "index.html").read_text("utf-8")
    for page in DOCS.rglob("*.md"):
        path = page.relative_to(DOCS).with_suffix(".html").as_posix()
        assert (site / path).exists()
        assert path == "index.html" or path.startswith("decisions/0") or f'href="{path}"' in home, path


def test_the_site_loads_nothing_from_elsewhere(site):
    """No script, style sheet, font or image of another host, so that it can be read offline."""
    for page in site.rglob("*.html"):
        text = page.read_text("utf-8")
        loaded = re.findall(r'<(?:script|img|iframe)[^>]*src="([^"]+)"|<link[^>]*href="([^"]+)"', text)
        assert not [each for pair in loaded for each in pair if re.match(r"(https?:)?//", each)], page


def test_code_blocks_are_code_on_the_site(site):
    """A fence that zensical does not understand is shown as text."""
    for page in site.rglob("*.html"):
        assert "<p>```" not in page.read_text("utf-8"), page


def anchors(page):
    """The anchors of the headings of a page, as forges and zensical make them."""
    for heading in re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE):
        bare = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower())
        yield re.sub(r"[ -]+", "-", bare.strip())


@pytest.mark.parametrize("page", [page for page in [*PAGES, ROOT / "CHANGELOG.md"] if page.exists()], ids=name_of)
def test_links_lead_to_files_and_headings_that_exist(page):
    """On a forge, where the pages are read as Markdown. Pages in docs/ link to nothing outside of docs/."""
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#\s]*)#?([^)\s]*)\)", page.read_text("utf-8")):
        linked = (page.parent / target).resolve() if target else page
        assert linked.exists(), target
        assert DOCS not in page.parents or DOCS in linked.parents, target
        assert not anchor or anchor in anchors(linked), f"{target}#{anchor}"


def test_generated_pages_are_up_to_date():
    """If this fails, run `python docs/generate.py`."""
    assert not [name_of(page) for page, text in generate.pages().items() if page.read_text("utf-8") != text]


WRITTEN = (DOCS / "architecture.md").read_text("utf-8").partition("## All modules")[0]
"""The part of the page that is written by hand."""


def test_the_architecture_names_files_that_exist():
    """Files and folders, relative to `pacs/` or to the repository."""
    named = set(re.findall(r"`([\w./]+(?:\.py|/))`", WRITTEN))
    assert len(named) > 60
    assert not [each for each in named if not ((ROOT / "pacs" / each).exists() or (ROOT / each).exists())]


def test_the_architecture_names_classes_and_functions_that_exist():
    """Each name in backticks stands in the code."""
    code = "".join(path.read_text("utf-8") for path in (ROOT / "pacs").rglob("*.py")) + "pacs-"
    named = set(re.findall(r"`([A-Za-z_]{3,}(?:\.\w+)?|pacs-[a-z-]+)`", WRITTEN))
    missing = [each for each in named if not re.search(rf"\b{re.escape(each.rpartition('.')[2])}\b", code)]
    assert not [each for each in missing if each not in ("lint-imports", "pyproject.toml", "config.toml")]


# --- code blocks -------------------------------------------------------------------------------------------------


def test_every_block_is_run_or_says_why_not():
    """Blocks of `sh`, `toml`, `python` and `json`; a named block is named in a test, and each name is used once."""
    tests = "".join(each.read_text("utf-8") for each in Path(__file__).parent.glob("test_*.py"))
    names = [each.note.removeprefix("run: ") for each in BLOCKS if each.note.startswith("run: ")]
    assert len(names) == len(set(names))
    assert not [name for name in names if f'"{name}"' not in tests]
    assert not [each for each in PLAIN if each.language in ("python", "json", "")]
    assert not [each for each in BLOCKS if each.language not in ("sh", "toml", "python", "json", "text")]


@pytest.mark.parametrize("each", [each for each in PLAIN if each.language == "toml"], ids=name_of)
def test_configurations_load(each, tmp_path):
    """Each block of TOML is a valid configuration."""
    (tmp_path / "config.toml").write_text(each.text)
    load(tmp_path / "config.toml", {})


@pytest.fixture
def typist(tmp_path, monkeypatch):
    """Type the lines of a page in order, beside a running server whose configuration is ./config.toml."""
    monkeypatch.chdir(tmp_path)
    ours = Authority(tmp_path).sign("server", "127.0.0.1")
    write(study("ALLISON^ANN", series=1, instances=2), tmp_path / "folder")
    port, secure = free_port(), free_port()
    keys = f'[tls]\nenabled = true\nport = {secure}\ncertificate = "{ours.certificate}"\nkey = "{ours.key}"\n'
    paths = '[database]\nurl = "sqlite:///pacs.db"\n[files]\nurl = "files"\n[web]\nenabled = false\n'
    (tmp_path / "config.toml").write_text(f'[server]\nport = {port}\n{paths}{keys}ca = "ca.pem"\n')
    settings = {"server.port": port, "tls.enabled": True, "tls.port": secure}
    settings |= {"tls.certificate": ours.certificate, "tls.key": ours.key}
    with ExitStack() as stack:
        stack.enter_context(serving(tmp_path, settings))

        def type_lines(lines):
            for line in lines:
                here = line.replace("/path/to/", "").replace(":11112", f":{port}").replace(":2762", f":{secure}")
                stop = "pacs restore" in line or "pacs reindex" in line
                if stop:
                    stack.close()  # as the page says
                yield type_in(here, tmp_path)

        yield type_lines


@pytest.mark.parametrize("page", TYPED, ids=name_of)
def test_the_commands_of_a_page_run(page, typist):
    """Typed one after the other in an empty folder; each succeeds."""
    lines = [line for each in PLAIN if each.page == page and each.language == "sh" for line in each.text.splitlines()]
    assert list(typist(lines))


def test_the_tutorial_shows_what_it_stores(typist, tmp_path):
    """The files that it stores are listed, found, shown twice, and retrieved."""
    page = DOCS / "tutorial" / "first-archive.md"
    lines = [line for each in PLAIN if each.page == page and each.language == "sh" for line in each.text.splitlines()]
    shown = "".join(typist(lines))
    assert "2 stored, 0 " in shown
    assert shown.count("CompressedSamples^CT1") == 4
    assert len(list((tmp_path / "downloads").rglob("*.dcm"))) == 1
    assert [peer.ae_title for peer in load(None, {}).peers] == ["STORE_SCP"]


def test_the_program_of_the_tutorial_downloads_a_study(pacs_server, tmp_path, monkeypatch):
    """As it stands on the page."""
    monkeypatch.chdir(tmp_path)
    pacs_server.add(study("CompressedSamples^CT1", series=1, instances=2))
    exec(block("download").replace("PACS@127.0.0.1:11112", pacs_server.address), {})
    assert len(list((tmp_path / "downloads").rglob("*.dcm"))) == 2


def not_run():
    """The lines of the blocks that are not run."""
    for each in BLOCKS:
        if each.language == "sh" and (each.note.startswith("not run") or each.page in NOT_RUN):
            yield from (shlex.split(line, comments=True) for line in each.text.splitlines())


def test_commands_that_are_not_run_exist():
    """The options of `pacs` are there, and the modules of `python -m`."""
    for words in not_run():
        programs = [Path(word).name for word in words]
        if "-m" in words:
            assert importlib.util.find_spec(words[words.index("-m") + 1]), words
        elif "pacs" in programs and "systemctl" not in programs and "useradd" not in programs:
            parse(words[programs.index("pacs") + 1 :])


def parse(words):
    """Parse the arguments of `pacs` without running a command."""
    command = main
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    command.make_context("pacs", list(words), resilient_parsing=True)


def test_postgresql_is_set_up_as_the_page_says(postgres_server, tmp_path, monkeypatch):
    """In an empty database."""
    monkeypatch.chdir(tmp_path)
    with postgres_database(postgres_server) as url:
        (tmp_path / "config.toml").write_text(f'[database]\nurl = "{url}"\n')
        for line in block("postgresql").splitlines():
            assert "schema" in type_in(line, tmp_path)
