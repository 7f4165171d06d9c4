"""Standard output and error of the commands, whatever they are connected to.

Characters that the encoding of a terminal or pipe lacks are escaped. Output that cannot be written, to a full disk or a
closed pipe, ends the command with a sentence.
"""

import codecs
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click

from pacs.cli.exit_status import FAILED
from pacs.cli.output import print_error

_ESCAPED_ASCII = "pacs-ascii"
"""ASCII by another name: click would write UTF-8 to a stream in ASCII."""


@contextmanager
def checked_output() -> Iterator[None]:
    """Write all output of the body, and end the command with a sentence if that fails."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        if error.filename is not None:
            raise  # not of a stream
        _discard_rest()
        with suppress(OSError):
            print_error(f"cannot write the output: {error.strerror or error}")
        raise click.exceptions.Exit(FAILED) from error


def _discard_rest() -> None:
    """Send what is still in the buffer of standard output to nowhere: Python would complain of it at its end."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def escape_output() -> None:
    """Escape what standard output and error cannot show; a closed one takes everything."""
    codecs.register(_ascii)
    for name in ("stdout", "stderr"):
        stream: Any = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open to the end
        elif hasattr(stream, "reconfigure"):
            is_ascii = codecs.lookup(stream.encoding).name == "ascii"
            stream.reconfigure(encoding=_ESCAPED_ASCII if is_ascii else None, errors="backslashreplace")


def _ascii(name: str) -> codecs.CodecInfo | None:
    if name != _ESCAPED_ASCII.replace("-", "_"):
        return None
    found = codecs.lookup("ascii")
    return codecs.CodecInfo(
        found.encode,
        found.decode,
        found.streamreader,
        found.streamwriter,
        found.incrementalencoder,
        found.incrementaldecoder,
        name=_ESCAPED_ASCII,
    )
