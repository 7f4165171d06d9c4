"""Files and folders that only their user and group may read, whatever the umask is: mode 0640 and 0750 at most."""

import os
import stat
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

FILE, FOLDER = 0o640, 0o750
"""The modes of files and folders with patient data; a stricter umask makes them stricter."""


def opener(path: str | os.PathLike[str], flags: int) -> int:
    """Open or create a private file; the `opener` of `open`."""
    return os.open(path, flags, FILE)


def make_folder(path: Path) -> None:
    """Create a private folder, and each missing one above it. Raises OSError."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True, mode=FOLDER)


def make_file(path: Path) -> None:
    """Create a private, empty file if there is none. Raises OSError."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE))


def restrict(paths: Collection[Path]) -> list[Path]:
    """Make existing files and folders private, and the folders that have no other entries than these.

    A name of `paths` with a suffix, such as that of a rotated log, is no other entry. Returns what belongs to another
    user and may be read by all.
    """
    names = tuple(each.name for each in paths)
    own = [each for each in {path.parent for path in paths} if _has_only(each, names)]
    return [each for each in (*paths, *own) if not _restrict(each)]


def _has_only(folder: Path, names: tuple[str, ...]) -> bool:
    try:
        return all(name.startswith(names) for name in os.listdir(folder))
    except OSError:
        return False


def _restrict(path: Path) -> bool:
    """Take the rights that private ones do not give from a file or folder; return whether it is private now."""
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            return True  # a pipe or device
        excess = stat.S_IMODE(mode) & 0o777 & ~(FOLDER if stat.S_ISDIR(mode) else FILE)
        if excess:
            path.chmod(stat.S_IMODE(mode) & ~excess)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
