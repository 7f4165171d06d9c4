"""`pacs render`."""

import base64
import os
import pty
import re
import subprocess
import sys
from contextlib import suppress

import imagecodecs
import numpy
import pytest

from pacs.cli import render as module
from pacs.cli.terminal_picture import Protocol, protocol_of
from pacs.testing import study, write
from tests.pixels.rendering import by_dcmtk, picture_of
from tests.pixels.samples import file_of, native_sample, sample
from tests.programs import PATIENCE
from tests.real_files import named

CT = named("CT_small.dcm")


@pytest.fixture
def render(pacs, tmp_path):
    """Return the picture that `pacs render` writes for an instance."""

    def run(what, *words, name="out.png"):
        path = what
        if not isinstance(what, str | os.PathLike):
            path = tmp_path / "rendered.dcm"
            path.write_bytes(file_of(what))
        done = pacs("render", path, "-o", tmp_path / name, *words)
        assert (done.exit_code, done.output) == (0, ""), done.output
        written = (tmp_path / name).read_bytes()
        return imagecodecs.png_decode(written) if name.endswith(".png") else imagecodecs.jpeg8_decode(written)

    return run


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_file_becomes_png_or_jpeg(render, pacs):
    """By the name of the output; the PNG is that of DCMTK up to the last rounding."""
    png = render(CT).astype(int)
    assert numpy.abs(png - by_dcmtk(CT)).max() <= 1
    assert numpy.abs(render(CT, name="out.JPG") - png).max() < 40
    refused = pacs("render", CT, "-o", "out.tiff")
    assert refused.exit_code == 2
    assert "'out.tiff' is neither PNG nor JPEG" in refused.stderr


@pytest.mark.parametrize(
    ("word", "window"),
    [
        ("-100,300", (-100, 300)),
        ("40,400,sigmoid", (40, 400, "SIGMOID")),
        ("auto", "auto"),
        ("1", "1"),
        ("SOFT", "SOFT"),
    ],
)
def test_the_window_is_chosen(render, word, window):
    """By values, number or name."""
    from pacs.pixels.rendering import Window

    image = native_sample("MONOCHROME2", 12, WindowCenter=9, WindowWidth=700, WindowCenterWidthExplanation="SOFT")
    chosen = Window(*window) if isinstance(window, tuple) else window
    assert (render(image, "--window", word) == picture_of(image, window=chosen)).all()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--window", "LUNG"], "the image has no window 'LUNG': expected CENTER,WIDTH or "),
        (["--window", "4,0"], "the window width is 0, but must be 1 or more; use LINEAR_EXACT for less"),
        (["--window", "1,2,CUBIC"], "there is no VOI LUT function 'CUBIC'"),
        (["--frame", "2"], "there is no frame 2: the image has 1"),
        (["--size", "12"], "'12' is not WIDTHxHEIGHT"),
    ],
)
def test_a_mistaken_option_is_explained(pacs, words, said):
    """With exit status 2, and nothing is written."""
    done = pacs("render", CT, "-o", "out.png", *words)
    assert done.exit_code == 2
    assert said in done.stderr
    assert not os.path.exists("out.png")


def test_frame_and_size_are_chosen(render):
    """Of a compressed image with several frames."""
    made = sample("1.2.840.10008.1.2.4.90", frames=3)
    assert (render(made.compressed, "--frame", 3) == picture_of(made.native, 3)).all()
    assert render(CT, "--size", "32x100").shape == (32, 32)


def test_an_instance_of_the_archive_is_rendered_by_its_uid(render, pacs, tmp_path):
    """As its file is."""
    write([native_sample()], tmp_path / "in")
    pacs("import", tmp_path / "in")
    assert (render(native_sample().SOPInstanceUID) == picture_of(native_sample())).all()


def test_in_a_pipe_the_picture_is_png(pacs):
    """Also with `-o -`."""
    for words in ([], ["-o", "-"]):
        done = pacs("render", CT, *words)
        assert done.exit_code == 0
        assert (imagecodecs.png_decode(done.stdout_bytes) == picture_of(CT)).all()


def test_what_cannot_be_rendered_is_said(pacs, tmp_path):
    """In one sentence with exit status 1."""
    (tmp_path / "text.dcm").write_text("hello " * 50)
    cases = {
        named("rtplan.dcm"): "The instance has no pixel data",
        named("MR_truncated.dcm"): "The data set ends in the middle of an element",
        tmp_path / "text.dcm": "Not a DICOM file",
    }
    for path, sentence in cases.items():
        done = pacs("render", path, "-o", "out.png")
        assert (done.exit_code, done.stderr.count("\n")) == (1, 1), done.output
        assert f"{path}: {sentence}" in done.stderr
    (study_of_video,) = study(series=1, instances=1, transfer_syntax="1.2.840.10008.1.2.4.102")
    (tmp_path / "video.dcm").write_bytes(file_of(study_of_video))
    done = pacs("render", tmp_path / "video.dcm", "-o", "out.png")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1), done.output
    unwritable = pacs("render", CT, "-o", tmp_path / "nowhere" / "out.png")
    assert unwritable.stderr.endswith("out.png cannot be written: No such file or directory\n")


# --- terminals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "protocol"),
    [
        ({"TERM": "xterm-kitty"}, Protocol.KITTY),
        ({"TERM": "xterm-256color", "KITTY_WINDOW_ID": "1"}, Protocol.KITTY),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, Protocol.ITERM),
        ({"TERM": "xterm-256color", "LC_TERMINAL": "iTerm2"}, Protocol.ITERM),
        ({"TERM": "foot"}, Protocol.SIXEL),
        ({"TERM": "xterm-256color"}, Protocol.BLOCKS),
        ({"TERM": "tmux-256color", "TERM_PROGRAM": "iTerm.app"}, Protocol.BLOCKS),
        ({"TERM": "xterm-kitty", "TMUX": "/tmp/x"}, Protocol.BLOCKS),
        ({"TERM": "dumb"}, None),
        ({}, None),
    ],
)
def test_the_protocol_of_a_terminal_is_found(environment, protocol):
    """By what terminals say of themselves; one that multiplexes passes no pictures on."""
    assert protocol_of(environment, "utf-8") is protocol
    assert protocol_of({"TERM": "xterm"}, "ascii") is None


def on_a_terminal(path, **environment):
    """Run `pacs render` on a terminal of 80 columns and 24 lines; return its output and exit status."""
    primary, secondary = pty.openpty()
    inherited = {
        key: value for key, value in os.environ.items() if not key.startswith(("TERM", "LC_", "KITTY", "TMUX"))
    }
    told = inherited | {"COLUMNS": "80", "LINES": "24", "PYTHONIOENCODING": "utf-8"} | environment
    command = [sys.executable, "-m", "pacs", "render", str(path)]
    process = subprocess.Popen(command, stdout=secondary, stderr=secondary, env=told)
    os.close(secondary)
    output = b""
    with suppress(OSError):  # the end of a pseudo terminal on Linux
        while piece := os.read(primary, 1 << 16):
            output += piece
    os.close(primary)
    return output.decode().replace("\r\n", "\n"), process.wait(PATIENCE)


def test_a_terminal_with_kitty_graphics_gets_a_png():
    """In pieces, of which each but the last one says that more follow."""
    output, status = on_a_terminal(CT, TERM="xterm-kitty")
    pieces = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", output)
    assert status == 0
    assert [head[-3:] for head, _ in pieces] == ["m=1"] * (len(pieces) - 1) + ["m=0"]
    assert all(len(piece) <= 4096 for _, piece in pieces)
    png = base64.b64decode("".join(piece for _, piece in pieces))
    assert (imagecodecs.png_decode(png) == picture_of(CT)).all()


@pytest.fixture
def shown(pacs, monkeypatch, tmp_path):
    """Return what `pacs render` shows of an image on a terminal of 80 columns and 24 lines."""

    def run(image, *words, **environment):
        monkeypatch.setattr(module, "_is_terminal", lambda: True)
        monkeypatch.delenv("TMUX", raising=False)
        for key, value in ({"COLUMNS": "80", "LINES": "24", "COLORTERM": ""} | environment).items():
            monkeypatch.setenv(key, value)
        (tmp_path / "shown.dcm").write_bytes(file_of(image))
        done = pacs("render", tmp_path / "shown.dcm", *words)
        assert done.exit_code == 0, done.output
        return done.stdout

    return run


def test_a_terminal_with_inline_images_gets_a_png(shown):
    """iTerm2 and those that understand its sequence."""
    found = re.fullmatch(
        r"\x1b]1337;File=inline=1;size=(\d+):(.*)\a\n", shown(native_sample(), TERM="xterm", LC_TERMINAL="iTerm2")
    )
    png = base64.b64decode(found[2])
    assert len(png) == int(found[1])
    assert (imagecodecs.png_decode(png) == picture_of(native_sample())).all()


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "RGB"])
def test_other_terminals_get_half_blocks(shown, photometric):
    """Two pixels a character, in true colour; the size is that of the terminal."""
    image = native_sample(photometric, 8)
    lines = shown(image, TERM="xterm-256color", COLORTERM="truecolor").splitlines()
    expected = picture_of(image, size=(80, 44)).reshape(len(lines) * 2, -1, 3 if photometric == "RGB" else 1)
    expected = numpy.broadcast_to(expected, (*expected.shape[:2], 3))
    for number, line in enumerate(lines):
        cells = re.findall(r"\x1b\[38;2;(\d+);(\d+);(\d+);48;2;(\d+);(\d+);(\d+)m(▀+)", line)
        pixels = [tuple(map(int, cell[:6])) for cell in cells for _ in cell[6]]
        assert pixels == [(*a, *b) for a, b in zip(*expected[2 * number : 2 * number + 2].tolist(), strict=True)]
        assert line.endswith("\x1b[0m")


def test_a_terminal_of_256_colours_gets_its_nearest_ones(shown):
    """Greys for grey."""
    codes = set(re.findall(r"38;5;(\d+);48;5;(\d+)m", shown(native_sample("MONOCHROME2", 8), TERM="xterm-256color")))
    assert codes
    assert {int(each) for pair in codes for each in pair} <= {16, 231, *range(232, 256)}


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "RGB"])
def test_a_terminal_with_sixels_gets_them(shown, photometric):
    """Decoded, they are the picture up to the steps of the palette."""
    image = native_sample(photometric, 8)
    decoded = from_sixels(shown(image, TERM="foot"))
    expected = picture_of(image).reshape(48, 64, -1)
    assert numpy.abs(decoded - numpy.broadcast_to(expected, decoded.shape)).max() <= 255 / 5 + 3


def from_sixels(text):
    """Return the picture of sixels."""
    columns, rows, body = re.fullmatch(r'\x1bPq"1;1;(\d+);(\d+)(.*)\x1b\\\n', text).groups()
    picture = numpy.zeros((int(rows), int(columns), 3), int)
    palette = {}
    for index, *shares in re.findall(r"#(\d+);2;(\d+);(\d+);(\d+)", body):
        palette[index] = [int(each) * 255 // 100 for each in shares]
    bands = re.sub(r"#\d+;2;\d+;\d+;\d+", "", body).split("-")
    for top, band in enumerate(bands):
        for index, runs in re.findall(r"#(\d+)((?:!\d+[?-~])+)", band):
            column = 0
            for count, char in re.findall(r"!(\d+)([?-~])", runs):
                for bit in range(6):
                    if ord(char) - 63 >> bit & 1:
                        picture[6 * top + bit, column : column + int(count)] = palette[index]
                column += int(count)
    return picture


def test_a_terminal_without_pictures_is_told_of_o(pacs, monkeypatch):
    """With exit status 2."""
    monkeypatch.setattr(module, "_is_terminal", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    done = pacs("render", CT)
    assert done.exit_code == 2
    assert "this terminal shows no pictures; write one to a file with -o FILE" in done.stderr
