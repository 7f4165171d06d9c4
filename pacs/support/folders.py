"""Files in a folder."""

import os
from collections.abc import Iterator
from pathlib import Path


def files_under(folder: Path) -> Iterator[Path]:
    """Yield all files in a folder and its subfolders, sorted by name; links to folders are not followed.

    A folder that may not be read is yielded last, as if it were a file: who opens it learns the reason.
    """
    unreadable: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=lambda error: unreadable.append(Path(error.filename))):
        folders.sort()
        yield from (Path(place, name) for name in sorted(names) if _is_file(Path(place, name)))
    yield from sorted(unreadable)


def _is_file(path: Path) -> bool:
    """Return whether a path is a file, or may be one in a folder that may not be entered."""
    try:
        return path.is_file()
    except PermissionError:
        return True
