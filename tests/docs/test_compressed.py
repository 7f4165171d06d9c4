"""The lines of docs/howto/compressed.md, with DCMTK's storescp as the receiver."""

from contextlib import chdir

from pydicom import dcmread

from pacs.testing import write
from tests.docs.pages import block, type_in
from tests.pixels.samples import sample
from tests.programs import storescp

EXPLICIT, J2K = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.90"


def syntaxes(paths):
    """Return the transfer syntaxes of files."""
    return [dcmread(path).file_meta.TransferSyntaxUID for path in paths]


def test_images_are_sent_as_they_are_and_uncompressed(tmp_path):
    """A receiver of everything: with the second line, and from Python, the file is replaced by an uncompressed one."""
    write([sample(J2K).compressed], tmp_path / "folder")
    with storescp(tmp_path / "in") as scp, chdir(tmp_path):
        as_they_are, converted = block("store converted").replace("11113", str(scp.port)).splitlines()
        type_in(as_they_are, tmp_path)
        assert syntaxes(scp.files()) == [J2K]
        type_in(converted, tmp_path)
        assert syntaxes(scp.files()) == [EXPLICIT]
        scp.files()[0].unlink()
        exec(block("store converted from python").replace("11113", str(scp.port)))
        assert syntaxes(scp.files()) == [EXPLICIT]


def test_the_archive_is_exported_uncompressed(tmp_path):
    """Into the folder that the line names."""
    write([sample(J2K).compressed], tmp_path / "folder")
    with chdir(tmp_path):
        type_in("pacs import folder", tmp_path)
        type_in(block("export converted").strip(), tmp_path)
    assert syntaxes((tmp_path / "exported").rglob("*.dcm")) == [EXPLICIT]
