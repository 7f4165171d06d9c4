"""The decoder processes of a process."""

from contextlib import suppress
from pathlib import Path

PROGRAMS = (b"pacs.pixels.decoder_process", b"tests.pixels.")


def decoders(parent: int) -> list[int]:
    """Return the decoder processes that a process has started."""
    found = []
    with suppress(OSError):  # the process or one of its threads has ended
        for thread in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(each) for each in thread.read_text().split() if _is_decoder(int(each))]
    return found


def _is_decoder(process: int) -> bool:
    try:
        command = Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return False
    return any(each in command for each in PROGRAMS)


def is_alive(process: int) -> bool:
    """Return whether a process runs, and is not a zombie whose parent has not waited for it."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
