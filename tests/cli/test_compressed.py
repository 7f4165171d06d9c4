"""Compressed images on the command line: `pacs store --as`, `pacs export --as`, and the reasons of failures."""

import os
import signal
import subprocess
import sys

import pytest
from pydicom import dcmread

from pacs.testing import Fault, serving, study
from tests.client.scripted import answer, scripted
from tests.decoders import decoders, is_alive
from tests.pixels.samples import file_of, pixels_of, sample
from tests.programs import PATIENCE, storescp
from tests.waiting import eventually

EXPLICIT, J2K, JPEG_LS = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.80"
VIDEO = "MPEG-4 AVC/H.264 High Profile / Level 4.1"


def video():
    """Return an instance that nothing converts."""
    return study(series=1, instances=1, transfer_syntax="1.2.840.10008.1.2.4.102", patient_id="V")[0]


@pytest.fixture
def images(tmp_path):
    """Return a function that writes data sets to a folder."""

    def write(*datasets):
        folder = tmp_path / "images"
        folder.mkdir()
        for number, each in enumerate(datasets):
            each.SOPInstanceUID = each.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
            (folder / f"{number}.dcm").write_bytes(file_of(each))
        return folder

    return write


def syntaxes(paths):
    """Return the transfer syntaxes of files."""
    return {str(dcmread(path).file_meta.TransferSyntaxUID) for path in paths}


# --- store ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "options", "expected"),
    [((), ("+B",), EXPLICIT), (("--as", "implicit"), (), "1.2.840.10008.1.2"), (("--as", "jpegls"), (), JPEG_LS)],
)
def test_images_are_stored_as_the_receiver_or_the_user_wants_them(pacs, images, tmp_path, words, options, expected):
    """DCMTK's storescp: one that accepts only uncompressed images, and one that accepts everything."""
    made = sample(J2K)
    folder = images(made.compressed)
    with storescp(tmp_path / "in", "STORE_SCP", *options) as scp:
        done = pacs("store", f"STORE_SCP@127.0.0.1:{scp.port}", folder, *words)
        assert (done.exit_code, done.stderr) == (0, "")
        assert done.stdout.endswith(" stored, 1 converted, 0 failed\n")
        assert syntaxes(scp.files()) == {expected}
        if not words:
            assert (pixels_of(dcmread(scp.files()[0])) == made.pixels).all()


def test_the_reason_why_an_image_is_not_stored_is_printed(pacs, images):
    """Exit status 3; the other image is stored."""

    def store(association, message):
        message.drain()
        answer(association, message, 0x0000)

    folder = images(video(), sample(J2K).compressed)
    with scripted(syntaxes=[EXPLICIT], store=store) as receiver:
        done = pacs("store", str(receiver.peer), folder)
        converted = pacs("store", str(receiver.peer), folder, "--as", "explicit")
    assert (done.exit_code, converted.exit_code) == (3, 3)
    assert done.stderr == f"1 failed: The peer does not accept {VIDEO}\n    {folder / '0.dcm'}\n"
    assert converted.stderr.startswith(f"1 failed: {VIDEO} is not converted into Explicit VR Little Endian\n")


@pytest.mark.parametrize("command", ["store", "export"])
def test_what_a_conversion_changes_beyond_the_encoding_is_printed(pacs, images, tmp_path, command):
    """Surplus frames are dropped."""
    dataset = sample(J2K, frames=2).compressed
    dataset.NumberOfFrames = 1
    folder = images(dataset)
    if command == "export":
        pacs("import", folder)
        done = pacs("export", tmp_path / "out", "--all", "--as", "explicit")
    else:
        with storescp(tmp_path / "in", "STORE_SCP", "+B") as scp:
            done = pacs("store", f"STORE_SCP@127.0.0.1:{scp.port}", folder)
    assert done.exit_code == 0
    assert "Pixel Data has 2 frames; those after the declared 1 were dropped" in done.stderr


@pytest.mark.parametrize("command", ["store", "export"])
def test_an_unknown_transfer_syntax_is_a_usage_error(pacs, images, command):
    """The known names are printed."""
    words = ["X@127.0.0.1:1", images(video())] if command == "store" else ["out", "--all"]
    done = pacs(command, *words, "--as", "jpeg")
    assert done.exit_code == 2
    assert "there is no transfer syntax 'jpeg': expected explicit, implicit, rle, jpegls, j2k, htj2k" in done.stderr


def test_ctrl_c_ends_a_store_with_its_decoders(images, tmp_path):
    """The whole process group gets the signal, as on a terminal: no traceback, and no process is left."""
    folder = images(*[sample(J2K).compressed for _ in range(40)])
    with serving(tmp_path / "slow", watched=True) as slow:
        slow.faults.add(Fault("C-STORE", delay=0.2))
        command = [sys.executable, "-m", "pacs", "store", slow.address, folder, "--as", "explicit"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, start_new_session=True)
        slow.received.wait_for(lambda received: len(received.c_store) > 1, PATIENCE)
        processes = decoders(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        said = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 130
    assert said.splitlines() == [
        "pacs: stopping; press Ctrl-C again to stop immediately",
        "pacs: interrupted",
    ]
    assert processes
    eventually(lambda: not any(map(is_alive, processes)))


# --- export --------------------------------------------------------------------------------------------------------


def test_an_archive_is_exported_uncompressed(pacs, images, tmp_path):
    """Instances that cannot be converted are listed, with exit status 3; without --as all are copied."""
    folder = images(video(), sample(J2K).compressed)
    pacs("import", folder)
    converted = pacs("export", tmp_path / "explicit", "--all", "--as", "explicit")
    assert (converted.exit_code, converted.stdout[:11], converted.stdout[-10:]) == (3, "1 instance,", " 1 failed\n")
    reason = f"{VIDEO} is not converted into Explicit VR Little Endian"
    assert converted.stderr == f"1 failed: {reason}\n    1.2.3.0\n"
    assert syntaxes((tmp_path / "explicit").rglob("*.dcm")) == {EXPLICIT}
    copied = pacs("export", tmp_path / "copies", "--all")
    assert (copied.exit_code, len(syntaxes((tmp_path / "copies").rglob("*.dcm")))) == (0, 2)
    alone = pacs("export", tmp_path / "none", "PatientID=V", "--as", "explicit", "--as", "jpegls")
    assert (alone.exit_code, list((tmp_path / "none").rglob("*"))) == (1, [])


# --- retrieves -----------------------------------------------------------------------------------------------------


def test_a_retrieve_that_fails_for_its_transfer_syntax_says_so(pacs, tmp_path):
    """With the reason of the server, and without advice about host and port."""
    with storescp(tmp_path / "in", "SMALL", "+B") as scp:
        peer = {"ae_title": "SMALL", "host": "127.0.0.1", "port": scp.port}
        with serving(tmp_path / "pacs", {"peers": [peer]}) as archive:
            archive.add(video())
            done = pacs("move", archive.address, "-k", f"StudyInstanceUID={video().StudyInstanceUID}", "-aem", "SMALL")
    assert done.exit_code == 1
    assert f"it does not accept {VIDEO}" in done.stderr
    assert "host" not in done.stderr
    assert "port" not in done.stderr
