"""Metadata of the package: project URLs, and a description whose links work on an index page.

`PACS_PROJECT_URL` in the environment of a build is the address of the repository. Without it there are no project URLs,
and the links of the README to other files become plain text.
"""

import os
import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

PAGES = {"Source": "", "Documentation": "docs/index.md", "Changelog": "CHANGELOG.md", "Security": "SECURITY.md"}
RELATIVE_LINK = re.compile(r"\[([^\]]+)\]\((?!https?://|#)([^)\s]+)\)")


class MetadataHook(MetadataHookInterface):
    """Sets `readme` and `urls`."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the dynamic fields of the metadata."""
        base = os.environ.get("PACS_PROJECT_URL", "").rstrip("/")
        text = (Path(self.root) / "README.md").read_text("utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": description(text, base)}
        metadata["urls"] = {name: address(base, path) for name, path in PAGES.items()} if base else {}


def address(base: str, path: str) -> str:
    """Return the address of a file in the repository; of the repository itself for ''."""
    return f"{base}/blob/main/{path}" if path else base


def description(readme: str, base: str) -> str:
    """Return the README with absolute links, or without links to other files if there is no address."""
    return RELATIVE_LINK.sub(lambda found: f"[{found[1]}]({address(base, found[2])})" if base else found[1], readme)
