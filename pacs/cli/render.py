"""`pacs render`: a frame of an instance as a picture, in a file or on the terminal."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pacs.cli.instance_argument import explained, find_instance, instance_argument, reading
from pacs.cli.options import with_config_loader
from pacs.cli.terminal_picture import (
    Protocol,
    in_blocks,
    in_iterm,
    in_kitty,
    in_sixels,
    protocol_of,
    rows_of,
    size_of,
)
from pacs.errors import StorageUnavailable, UndecodableDataSet
from pacs.pixels.rendering import FUNCTIONS, JPEG, PNG, RAW, Window
from pacs.support.regular_files import open_regular

if TYPE_CHECKING:
    from pacs.config import Config
    from pacs.pixels.frames import Frames, Look

FORMS = {".png": PNG, ".jpg": JPEG, ".jpeg": JPEG}


def _window(_ctx: click.Context, _parameter: click.Parameter, word: str | None) -> Window | str | None:
    """Parse CENTER,WIDTH[,FUNCTION]; anything else is the name of a window of the image."""
    center, comma, rest = (word or "").partition(",")
    width, _, function = rest.partition(",")
    try:
        return Window(float(center), float(width), function.upper() or FUNCTIONS[0]) if comma else word
    except ValueError:
        return word


def _size(_ctx: click.Context, _parameter: click.Parameter, word: str | None) -> tuple[int, int] | None:
    if word is None:
        return None
    width, _, height = word.lower().partition("x")
    if not (width.isdigit() and height.isdigit() and int(width) and int(height)):
        raise click.BadParameter(f"{word!r} is not WIDTHxHEIGHT; expected for example 512x512")
    return int(width), int(height)


def _form(_ctx: click.Context, _parameter: click.Parameter, path: Path | None) -> Path | None:
    if path is not None and str(path) != "-" and path.suffix.lower() not in FORMS:
        raise click.BadParameter(f"{str(path)!r} is neither PNG nor JPEG; expected a name ending in {', '.join(FORMS)}")
    return path


@click.command(short_help="Render a frame as PNG or JPEG.")
@instance_argument
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", callback=_form,
    help="File to write, .png or .jpg; - writes PNG to standard output. Default: show it on the terminal.",
)  # fmt: skip
@click.option("--frame", type=int, default=1, show_default=True, metavar="N", help="Number of the frame.")
@click.option(
    "--window", metavar="WINDOW", callback=_window,
    help="CENTER,WIDTH[,FUNCTION], `auto`, or the number or name of a window or VOI LUT of the image; "
    "default: its first one, else auto. An unknown name lists them.",
)  # fmt: skip
@click.option("--size", metavar="WIDTHxHEIGHT", callback=_size, help="Reduce the picture to this size at most.")
@click.option("--quality", type=click.IntRange(1, 100), default=90, show_default=True, help="Quality of JPEG.")
@with_config_loader
def render(
    read_config: "Callable[[], Config]",
    what: str,
    *,
    output: Path | None,
    frame: int,
    window: Window | str | None,
    size: tuple[int, int] | None,
    quality: int,
) -> None:
    """Render a frame of a file, or of the instance of the archive with a SOP Instance UID. Not for diagnostic use.

    Modality LUT, VOI LUT or window, palette and colours are applied as the standard says; overlays are not drawn. On a
    terminal the picture is shown by kitty graphics, iTerm2 inline images or sixels where it understands them, else with
    half-block characters; in a pipe it is PNG.
    """
    from pacs.pixels.frames import Look

    look = Look(window, size=size, quality=quality)
    with _frames(what, read_config) as frames:
        if output is None and _is_terminal():
            click.echo(_shown(frames, frame, look), nl=False, color=True)
            return
        form = FORMS.get(output.suffix.lower(), PNG) if output else PNG
        _write(frames.rendered(frame, look._replace(form=form)), output)


@contextmanager
def _frames(what: str, read_config: "Callable[[], Config]") -> "Iterator[Frames]":
    """Open the frames of a file or of an instance of the archive."""
    from pacs.dicom import part10
    from pacs.pixels.frames import Frames
    from pacs.pixels.pool import DecoderPool
    from pacs.services.pixels import PixelService

    with find_instance(what, read_config) as found, ExitStack() as stack:
        if not isinstance(found, Path):
            service = PixelService(found.archive.files, found.archive.decoders)
            yield stack.enter_context(service.frames(found.instance))
            return
        with reading(what):
            file = stack.enter_context(open_regular(found))
            head = part10.find_data_set(file)
            try:
                frames = Frames(file, head.transfer_syntax, stack.enter_context(DecoderPool(1)))
            except UndecodableDataSet as error:
                raise explained(error, is_certain=head.data_offset > 0) from error
        stack.callback(frames.close)
        yield frames


def _is_terminal() -> bool:
    return sys.stdout.isatty()


def _write(picture: bytes, output: Path | None) -> None:
    """Write a picture to a file or to standard output. Raises StorageUnavailable."""
    if output is None or str(output) == "-":
        sys.stdout.buffer.write(picture)
        sys.stdout.buffer.flush()
        return
    try:
        output.write_bytes(picture)
    except OSError as error:
        raise StorageUnavailable(f"{output} cannot be written: {error.strerror or error}") from error


def _shown(frames: "Frames", frame: int, look: "Look") -> str:
    """Return a picture as the terminal shows it. Raises click.UsageError if it shows none."""
    protocol = protocol_of(os.environ, sys.stdout.encoding or "")
    if protocol is None:
        raise click.UsageError("this terminal shows no pictures; write one to a file with -o FILE")
    look = look._replace(size=look.size or size_of(protocol))
    if protocol in (Protocol.KITTY, Protocol.ITERM):
        png = frames.rendered(frame, look)
        return in_kitty(png) if protocol is Protocol.KITTY else in_iterm(png)
    raw, made = frames.rendered(frame, look._replace(form=RAW)), frames.picture(look)
    rows = rows_of(raw, made.columns, made.samples_per_pixel)
    if protocol is Protocol.SIXEL:
        return in_sixels(rows)
    return in_blocks(rows, has_all_colours=os.environ.get("COLORTERM") in ("truecolor", "24bit"))
