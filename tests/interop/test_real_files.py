"""Stores, finds and retrieves the real files of pydicom and pydicom-data over the network, or refuses them.

They are sent byte for byte as they are, in the transfer syntax they name, to as many archives as there are files with
one SOP Instance UID, which store unknown SOP Classes. `REFUSED` has the files that cannot be stored, with their status.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import sha256
from struct import pack, unpack_from
from typing import Any

import pytest
from pydicom.datadict import tag_for_keyword

from pacs.conformance.checks.wire import role_selection
from pacs.dimse.messages.status import Service, refusal
from pacs.errors import PacsError
from pacs.index import writer
from pacs.testing import serving
from tests import raw
from tests.archives import GET, MOVE, identifier
from tests.databases import KINDS, fresh_database
from tests.programs import Storescp, free_port, run, storescp
from tests.real_files import FILES, SECONDARY_CAPTURE, RealFile
from tests.tap import tapping

CANNOT_UNDERSTAND, LACKS_A_UID, NOT_KEPT = 0xC000, 0xA901, 0x0122

REFUSED: dict[str, tuple[int, str]] = {
    # not data sets
    "charset_files/FileInfo.txt": (CANNOT_UNDERSTAND, "a text"),
    "hashes.json": (CANNOT_UNDERSTAND, "a text"),
    "palettes/README.md": (CANNOT_UNDERSTAND, "a text"),
    "test_files/README.txt": (CANNOT_UNDERSTAND, "a text"),
    "test_files/crayons.icc": (CANNOT_UNDERSTAND, "a colour profile"),
    "test_files/dicomdirtests/README.txt": (CANNOT_UNDERSTAND, "a text"),
    "test_files/dicomdirtests/TINY_ALPHA/README": (CANNOT_UNDERSTAND, "a text"),
    "test_files/rtplan.dump": (CANNOT_UNDERSTAND, "a text"),
    "test_files/rtstruct.dump": (CANNOT_UNDERSTAND, "a text"),
    "test_files/test1.json": (CANNOT_UNDERSTAND, "a text"),
    "test_files/test_PN.json": (CANNOT_UNDERSTAND, "a text"),
    "test_files/zipMR.gz": (CANNOT_UNDERSTAND, "a compressed file"),
    "urls.json": (CANNOT_UNDERSTAND, "a text"),
    # truncated instances are never stored: after a success the sender may delete its only copy
    "test_files/MR_truncated.dcm": (CANNOT_UNDERSTAND, "its Pixel Data is shorter than it says"),
    "test_files/rtplan_truncated.dcm": (CANNOT_UNDERSTAND, "it ends in the middle of a sequence"),
    "test_files/no_meta.dcm": (CANNOT_UNDERSTAND, "a blank stands before its first element"),
    # without valid Study, Series or SOP Instance UID
    "bad_sequence.dcm": (LACKS_A_UID, "its UIDs are hashes"),
    "charset_files/chrSQEncoding.dcm": (LACKS_A_UID, "two elements only"),
    "charset_files/chrSQEncoding1.dcm": (LACKS_A_UID, "two elements only"),
    "test_files/JPEGLSNearLossless_08.dcm": (LACKS_A_UID, "no study, no series"),
    "test_files/JPEGLSNearLossless_16.dcm": (LACKS_A_UID, "no study, no series"),
    "test_files/SC_rgb_jls_lossy_line.dcm": (LACKS_A_UID, "no study, no series"),
    "test_files/SC_rgb_jls_lossy_sample.dcm": (LACKS_A_UID, "no study, no series"),
    "test_files/UN_sequence.dcm": (LACKS_A_UID, "a few elements only"),
    "test_files/empty_charset_LEI.dcm": (LACKS_A_UID, "a few elements only"),
    "test_files/meta_missing_tsyntax.dcm": (LACKS_A_UID, "one element only"),
    "test_files/nested_priv_SQ.dcm": (LACKS_A_UID, "a few elements only"),
    "test_files/no_meta_group_length.dcm": (LACKS_A_UID, "a few elements only"),
    "test_files/priv_SQ.dcm": (LACKS_A_UID, "a few elements only"),
    # SOP Classes that do not belong to a study
    "palettes/fall.dcm": (NOT_KEPT, "a Color Palette is a Non-Patient Object"),
    "palettes/hotiron.dcm": (NOT_KEPT, "a Color Palette is a Non-Patient Object"),
    "palettes/hotmetalblue.dcm": (NOT_KEPT, "a Color Palette is a Non-Patient Object"),
    "palettes/pet.dcm": (NOT_KEPT, "a Color Palette is a Non-Patient Object"),
    "palettes/pet20step.dcm": (NOT_KEPT, "a Color Palette is a Non-Patient Object"),
    "palettes/spring.dcm": (NOT_KEPT, "a Color Palette is a Non-Patient Object"),
    "palettes/summer.dcm": (NOT_KEPT, "a Color Palette is a Non-Patient Object"),
    "palettes/winter.dcm": (NOT_KEPT, "a Color Palette is a Non-Patient Object"),
    "test_files/dicomdirtests/DICOMDIR": (NOT_KEPT, "a directory"),
    "test_files/dicomdirtests/DICOMDIR-bigEnd": (NOT_KEPT, "a directory"),
    "test_files/dicomdirtests/DICOMDIR-empty.dcm": (NOT_KEPT, "a directory"),
    "test_files/dicomdirtests/DICOMDIR-implicit": (NOT_KEPT, "a directory"),
    "test_files/dicomdirtests/DICOMDIR-nooffset": (NOT_KEPT, "a directory"),
    "test_files/dicomdirtests/DICOMDIR-nopatient": (NOT_KEPT, "a directory"),
    "test_files/dicomdirtests/DICOMDIR-reordered": (NOT_KEPT, "a directory"),
    "test_files/dicomdirtests/TINY_ALPHA/DICOMDIR": (NOT_KEPT, "a directory"),
}
"""The files that are not stored: status and reason. All others have status 0000."""

BROKEN_AND_KEPT = {
    "emri_small_jpeg_2k_lossless_too_short.dcm": "the delimiter behind the last fragment is missing: no value is",
    "test_files/SC_rgb_jpeg.dcm": "its data set is in Implicit VR, against the JPEG transfer syntax it names",
}
"""Files that a strict reader refuses, although no value is lost."""

KEYS = {
    "PATIENT": ("PatientName", "PatientID"),
    "STUDY": ("StudyDate", "StudyTime", "AccessionNumber", "StudyID", "StudyInstanceUID"),
    "SERIES": ("Modality", "SeriesNumber", "SeriesInstanceUID"),
    "IMAGE": ("InstanceNumber", "SOPInstanceUID"),
}
"""The unique and required keys of each level (PS3.4 Tables C.6-1 to C.6-4), the unique one last."""

ROOTS = {"PATIENT": "1.2.840.10008.5.1.4.1.2.1.1", "STUDY": "1.2.840.10008.5.1.4.1.2.2.1"}
"""The FIND models by the name of their top level."""

REAL_FILES = [RealFile(path) for path in FILES]
STORABLE = [each for each in REAL_FILES if each.name not in REFUSED]


def groups_of_files(files: Sequence[RealFile]) -> list[list[RealFile]]:
    """Divide the files into as few groups as possible, so that no group has a SOP Instance UID twice."""
    groups: list[dict[str, RealFile]] = []
    for file in files:
        free = next((group for group in groups if file.uid not in group), None)
        if free is None:
            groups.append(free := {})
        free[file.uid] = file
    return [list(group.values()) for group in groups]


# --- sending, as a client of bytes -------------------------------------------------------------------------------


def store(port: int, files: Sequence[RealFile]) -> dict[str, int]:
    """Send files on one association; return the status of each by its name.

    A file whose SOP Class was not accepted is sent in the context of Secondary Capture with its transfer syntax.
    """
    wanted = {(each.sop_class, each.transfer_syntax) for each in files}
    wanted |= {(SECONDARY_CAPTURE, syntax) for _, syntax in wanted}
    proposed = dict(zip(range(1, 256, 2), sorted(wanted), strict=False))
    with raw.Raw(port) as client:
        answers = raw.contexts(client.associate(*((number, one, [two]) for number, (one, two) in proposed.items())))
        accepted = {pair: number for number, pair in proposed.items() if answers[number][0] == 0}
        found = {}
        for number, file in enumerate(files, 1):
            own = accepted.get((file.sop_class, file.transfer_syntax))
            context = own or accepted[SECONDARY_CAPTURE, file.transfer_syntax]
            uid = raw.element(0x1000, file.uid.encode())
            client.send(raw.request(raw.C_STORE, context, file.sop_class, number, file.data, [uid]))
            found[file.name] = client.message().status
        client.release()
    return found


@dataclass
class LoadedArchive:
    """An archive with the files that were sent to it and the statuses of the responses."""

    archive: Any
    files: list[RealFile]
    statuses: dict[str, int] = field(default_factory=dict)

    @property
    def sent(self) -> dict[str, str]:
        """The digest of the data set that arrived, by SOP Instance UID; a deflate stream made even (PS3.5 A.5)."""
        return {each.uid: digest(each.data + b"\0" * (len(each.data) % 2)) for each in self.files}

    def studies(self) -> list[str]:
        """The Study Instance UIDs of all that was sent."""
        return sorted({each.text("StudyInstanceUID") for each in self.files})


def digest(data: bytes) -> str:
    """Return a digest for comparisons: megabytes make unreadable failures."""
    return sha256(data).hexdigest()


@pytest.fixture(scope="module")
def destination() -> dict[str, Any]:
    """The move destination of all archives."""
    return {"ae_title": "BITS", "host": "127.0.0.1", "port": free_port()}


@pytest.fixture(scope="module")
def receiver(tmp_path_factory, destination) -> Iterator[Storescp]:
    """DCMTK's storescp, bit preserving, for all moves of the module."""
    with storescp(tmp_path_factory.mktemp("moved") / "files", destination["ae_title"], port=destination["port"]) as scp:
        yield scp


@pytest.fixture(scope="module", params=KINDS)
def loaded_archives(request, tmp_path_factory, destination) -> Iterator[list[LoadedArchive]]:
    """Archives on each kind of database that were sent all storable files, each SOP Instance UID once."""
    with ExitStack() as stack:
        found = []
        for files in groups_of_files(STORABLE):
            folder = tmp_path_factory.mktemp("pacs")
            url = stack.enter_context(fresh_database(request.param, request, folder))
            settings = {"storage.unknown_sop_classes": True, "peers": [destination], "database.url": url}
            archive = stack.enter_context(serving(folder, settings))
            found.append(LoadedArchive(archive, files, store(archive.port, files)))
        yield found


# --- stored or refused -------------------------------------------------------------------------------------------


def test_every_storable_file_is_stored(loaded_archives):
    """The status is 0000, also for files that a strict reader refuses."""
    statuses = {name: status for loaded in loaded_archives for name, status in loaded.statuses.items()}
    assert {name: hex(status) for name, status in statuses.items() if status} == {}
    assert len(statuses) > 200
    assert set(BROKEN_AND_KEPT) <= set(statuses)


def test_every_other_file_is_refused_with_its_status(tmp_path):
    """Each has its status, and no file is left."""
    with serving(tmp_path / "pacs", {"storage.unknown_sop_classes": True}) as archive:
        statuses = store(archive.port, [each for each in REAL_FILES if each.name in REFUSED])
        assert statuses == {name: status for name, (status, _) in REFUSED.items()}
        root = tmp_path / "pacs" / "files"
        assert not [path for path in root.rglob("*") if path.is_file() and root / "running" not in path.parents]


@pytest.mark.parametrize("uid_of", ["palettes/fall.dcm", "test_files/dicomdirtests/DICOMDIR"])
def test_a_sop_class_that_is_not_stored_is_not_accepted(loaded_archives, uid_of):
    """The presentation context is rejected: abstract syntax not supported (PS3.8 Table 9-18)."""
    file = next(each for each in REAL_FILES if each.name == uid_of)
    with raw.Raw(loaded_archives[0].archive.port) as client:
        answers = raw.contexts(client.associate((1, file.sop_class, [file.transfer_syntax])))
        client.release()
    assert answers[1][0] == 3


def test_an_import_has_the_same_results_as_c_store(tmp_path):
    """The same files are kept with the same bytes, the same ones refused for the same reasons."""
    found: dict[str, int] = {}
    stored: dict[str, str] = {}
    groups = [*groups_of_files(STORABLE), [each for each in REAL_FILES if each.name in REFUSED]]
    for number, files in enumerate(groups):
        with serving(tmp_path / str(number), {"storage.unknown_sop_classes": True}) as archive:
            for file in files:
                try:
                    uid = archive.storage.import_file(file.path).sop_instance_uid
                except PacsError as error:
                    found[file.name] = refusal(Service.STORE, error).status
                else:
                    row = writer.find(archive.index, uid)
                    stored[file.name] = row.digest
    assert found == {name: status for name, (status, _) in REFUSED.items()}
    assert stored == {each.name: digest(each.data) for each in STORABLE}


# --- found -------------------------------------------------------------------------------------------------------


def encoded_keys(file: RealFile, root: str, level: str) -> bytes:
    """An Identifier with all keys of the level and the unique ones above it, each as it is encoded in the file."""
    levels = list(KEYS)
    above = [each for each in levels[: levels.index(level)] if root == "PATIENT" or each != "PATIENT"]
    keywords = [*(KEYS[each][-1] for each in above), *KEYS[level], "SpecificCharacterSet"]
    if root == "STUDY" and level == "STUDY":
        keywords += KEYS["PATIENT"]
    values = {tag_for_keyword(keyword): file.value(keyword) for keyword in keywords}
    values[tag_for_keyword("QueryRetrieveLevel")] = level.encode()
    return b"".join(_element(tag, value) for tag, value in sorted(values.items()))


def _element(tag: int, value: bytes) -> bytes:
    padded = value + b" " * (len(value) % 2)
    return pack("<HHL", tag >> 16, tag & 0xFFFF, len(padded)) + padded


@pytest.mark.parametrize(
    ("root", "level"), [(root, level) for root in ROOTS for level in KEYS if (root, level) != ("STUDY", "PATIENT")]
)
def test_every_file_is_found_by_its_keys(loaded_archives, root, level):
    """All keys of the level together, in the file's own character set, give its entity and no other.

    Patients without Patient ID are one per study: there it is among them.
    """
    keyword, wrong = KEYS[level][-1], {}
    for loaded in loaded_archives:
        with raw.Raw(loaded.archive.port) as client:
            client.associate((1, ROOTS[root], [raw.IMPLICIT]))
            for number, file in enumerate(loaded.files, 1):
                client.send(raw.request(raw.C_FIND, 1, ROOTS[root], number, encoded_keys(file, root, level)))
                *matches, final = client.until_final()
                found = [str(each.dataset().get(keyword, "")) for each in matches]
                expected = file.text(keyword)
                if final.status or not (found == [expected] if expected else "" in found):
                    wrong[file.name] = (hex(final.status), final.text(0x0902), found, expected)
            client.release()
    assert wrong == {}


# --- retrieved ---------------------------------------------------------------------------------------------------


def received(scp: Storescp) -> dict[str, str]:
    """The digest of each data set that a storescp wrote, by SOP Instance UID; its files are gone then."""
    found = {}
    for path in scp.files():
        content = path.read_bytes()
        begin = 144 + unpack_from("<L", content, 140)[0]
        found[path.name.partition(".")[2]] = digest(content[begin:])
        path.unlink()
    return found


def move(port: int, destination: str, studies: Sequence[str]) -> raw.Response:
    """Move studies by a list of UIDs; the final response."""
    with raw.Raw(port, timeout=30) as client:
        client.associate((1, MOVE, [raw.IMPLICIT]))
        asked = identifier("STUDY", StudyInstanceUID=list(studies))
        client.send(raw.request(raw.C_MOVE, 1, MOVE, 1, asked, [raw.element(0x0600, destination.encode())]))
        final = client.until_final()[-1]
        client.release()
    return final


def test_a_move_sends_every_file_bit_for_bit(loaded_archives, receiver):
    """DCMTK's storescp +B receives the data sets that arrived in the C-STORE, all studies by one list of UIDs."""
    for loaded in loaded_archives:
        final = move(loaded.archive.port, receiver.ae_title, loaded.studies())
        assert (final.status, final.number(0x1021)) == (0x0000, len(loaded.files)), final.text(0x0902)
        assert received(receiver) == loaded.sent


def test_a_get_sends_every_file_bit_for_bit(loaded_archives):
    """On the same association, in contexts of one transfer syntax each."""
    for loaded in loaded_archives:
        final, found = get(loaded.archive.port, loaded.files, loaded.studies())
        assert (final.status, final.number(0x1021)) == (0x0000, len(loaded.files)), final.text(0x0902)
        assert found == loaded.sent


def get(port: int, files: Sequence[RealFile], studies: Sequence[str]) -> tuple[raw.Response, dict[str, str]]:
    """Get studies: the final response, and the digest of each data set that came, by SOP Instance UID."""
    pairs = sorted({(each.sop_class, each.transfer_syntax) for each in files})
    contexts = [(number, one, [two]) for number, (one, two) in zip(range(3, 256, 2), pairs, strict=False)]
    roles = b"".join(role(each) for each in sorted({one for one, _ in pairs}))
    found = {}
    with raw.Raw(port, timeout=30) as client:
        client.associate((1, GET, [raw.IMPLICIT]), *contexts, extra=roles, max_pdu=1 << 17)
        client.send(raw.request(raw.C_GET, 1, GET, 1, identifier("STUDY", StudyInstanceUID=list(studies))))
        while (message := client.message()).number(0x0100) == raw.C_STORE or message.status == 0xFF00:
            if message.number(0x0100) == raw.C_STORE:
                found[message.text(0x1000)] = digest(message.data or b"")
                client.send(raw.success(message.context, message.elements))
        client.release()
    return message, found


def role(sop_class: str) -> bytes:
    """An SCP/SCU Role Selection sub-item: we are the SCP of this Storage SOP Class (PS3.7 D.3.3.4)."""
    return role_selection(sop_class, 0, 1)


# --- sent by DCMTK -----------------------------------------------------------------------------------------------

PROPOSALS = {
    "1.2.840.10008.1.2": "-xi",
    "1.2.840.10008.1.2.1": "-xe",
    "1.2.840.10008.1.2.2": "-xb",
    "1.2.840.10008.1.2.1.99": "-xd",
    "1.2.840.10008.1.2.4.50": "-xy",
    "1.2.840.10008.1.2.4.51": "-xx",
    "1.2.840.10008.1.2.4.70": "-xs",
    "1.2.840.10008.1.2.4.80": "-xt",
    "1.2.840.10008.1.2.4.81": "-xu",
    "1.2.840.10008.1.2.4.90": "-xv",
    "1.2.840.10008.1.2.4.91": "-xw",
    "1.2.840.10008.1.2.5": "-xr",
}
"""The options with which DCMTK's storescu proposes a transfer syntax."""

NOT_FOR_DCMTK = {
    "test_files/SC_rgb_jpeg.dcm": "in Implicit VR under JPEG",
    "explicit_VR-UN.dcm": "it reads no UID of VR UN",
}
"""The storable files that DCMTK cannot read."""


def test_files_sent_by_dcmtk_are_moved_bit_for_bit(tmp_path, destination, receiver):
    """One file of each SOP Instance UID is sent by storescu, recorded on the wire, and moved."""
    files = [each for each in groups_of_files(STORABLE)[0] if each.name not in NOT_FOR_DCMTK]
    settings = {"storage.unknown_sop_classes": True, "peers": [destination]}
    with serving(tmp_path / "pacs", settings) as archive, tapping(archive.port) as tap:
        for syntax in sorted({each.transfer_syntax for each in files}):
            paths = [each.path for each in files if each.transfer_syntax == syntax]
            run("storescu", "-R", PROPOSALS[syntax], "-aec", "PACS", "127.0.0.1", tap.port, *paths)
        sent = {uid: digest(data) for uid, data in tap.data_sets().items()}
        final = move(archive.port, receiver.ae_title, sorted({each.text("StudyInstanceUID") for each in files}))
    assert (final.status, final.number(0x1021)) == (0x0000, len(files)), final.text(0x0902)
    assert received(receiver) == sent
    assert set(sent) == {each.uid for each in files}
