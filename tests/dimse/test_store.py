"""C-STORE on the wire (PS3.4 Annex B, checklist 3.8): statuses, stored files and memory."""

import struct
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydicom import dcmread
from sqlalchemy import text

from pacs.testing import serving, study
from tests import raw
from tests.databases import KINDS, fresh_database
from tests.raw import IMPLICIT, Raw, encoded

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
PRIVATE = "1.2.826.0.1.3680043.8.498.77"
HANGING_PROTOCOL = "1.2.840.10008.5.1.4.38.1"


def dataset(**values):
    """Return a CT image with changed attributes; None deletes one."""
    made = study(series=1, instances=1)[0]
    for keyword, value in values.items():
        if value is None:
            del made[keyword]
        else:
            setattr(made, keyword, value)
    return made


def store(archive, data, *, sop_class=CT, instance=None, syntax=raw.EXPLICIT, message_id=1):
    """Send these bytes by C-STORE under this SOP Instance UID, and return the response."""
    uid = instance or str(dataset().SOPInstanceUID)
    with Raw(archive.port) as client:
        client.associate((1, sop_class, [syntax]))
        client.send(raw.request(raw.C_STORE, 1, sop_class, message_id, data, [raw.element(0x1000, uid.encode())]))
        response = client.message()
        client.release()
    return response


def files(archive):
    """Return every file in the store except those of the running server, incomplete ones too."""
    from pathlib import Path

    root = Path(archive.config.files.url)
    own = {root / "journal", root / "running"}
    return [path for path in root.rglob("*") if path.is_file() and not own & set(path.parents)]


@pytest.fixture
def archive(tmp_path):
    """An empty running archive."""
    with serving(tmp_path) as running:
        yield running


def test_an_instance_is_stored_bit_for_bit_with_new_file_meta_information(archive):
    """The data set is stored as sent, the File Meta Information is new, the response repeats the UIDs (S4)."""
    sent = encoded(dataset(), raw.EXPLICIT)
    response = store(archive, sent)
    assert (response.status, response.number(0x0120), response.text(0x0002)) == (0x0000, 1, CT)
    assert response.text(0x1000) == dataset().SOPInstanceUID
    (path,) = files(archive)
    assert path.read_bytes().endswith(sent)
    meta = dcmread(path).file_meta
    assert (meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID) == (raw.EXPLICIT, CT)
    assert meta.SourceApplicationEntityTitle == "RAW"
    assert path.read_bytes()[:128] == bytes(128)


REFUSED = [
    ("S1 another SOP instance", {}, {"instance": "1.2.3.4"}, 0xA900, (0x0008, 0x0018)),
    ("S1 another SOP class", {"SOPClassUID": MR}, {}, 0xA900, (0x0008, 0x0016)),
    ("S2 no study", {"StudyInstanceUID": None}, {}, 0xA901, (0x0020, 0x000D)),
    ("S2 empty series", {"SeriesInstanceUID": ""}, {}, 0xA901, (0x0020, 0x000E)),
    ("S2 no SOP instance", {"SOPInstanceUID": None}, {}, 0xA901, (0x0008, 0x0018)),
    ("P11 a path as UID", {"SOPInstanceUID": "../ESCAPED"}, {"instance": "../ESCAPED"}, 0xA901, (0x0008, 0x0018)),
]


@pytest.mark.parametrize(
    ("values", "how", "status", "tag"), [each[1:] for each in REFUSED], ids=[x[0] for x in REFUSED]
)
def test_s1_s2_p11_an_invalid_instance_is_refused(archive, values, how, status, tag):
    """The status of the standard, an Error Comment and the Offending Element; no file remains."""
    response = store(archive, encoded(dataset(**values), raw.EXPLICIT), **how)
    assert response.status == status
    assert response.text(0x0902)
    assert response.elements[0x0901] == struct.pack("<HH", *tag)
    assert files(archive) == []


@pytest.mark.parametrize("data", [b"", b"\xff" * 100, b"DICM" * 50], ids=["empty", "noise", "text"])
def test_s3_an_invalid_data_set_is_refused(archive, data):
    """Cxxx or A9xx with an Error Comment; no file remains, and the association goes on."""
    response = store(archive, data)
    assert response.status >> 12 in (0xA, 0xC)
    assert response.text(0x0902)
    assert files(archive) == []


def test_s3_implicit_data_in_an_explicit_context_is_refused(archive):
    """The data set is decoded in the negotiated transfer syntax only."""
    assert store(archive, encoded(dataset(), IMPLICIT)).status == 0xC000


def test_s6_an_identical_instance_is_success_and_stored_once(archive):
    """An identical resend, and the same values in another encoding, are answered 0000."""
    assert store(archive, encoded(dataset(), raw.EXPLICIT)).status == 0x0000
    assert store(archive, encoded(dataset(), raw.EXPLICIT)).status == 0x0000
    assert store(archive, encoded(dataset(), IMPLICIT), syntax=IMPLICIT).status == 0x0000
    assert len(files(archive)) == 1


def test_s7_other_content_is_refused_and_the_first_instance_stays(archive):
    """`keep`: another instance under the same UID is refused with a comment; the stored one is untouched."""
    first = encoded(dataset(), raw.EXPLICIT)
    store(archive, first)
    response = store(archive, encoded(dataset(PatientComments="changed"), raw.EXPLICIT))
    assert response.status >> 12 == 0xC
    assert response.text(0x0902) == "The SOP Instance is stored already with other content"  # the log says which
    (path,) = files(archive)
    assert path.read_bytes().endswith(first)


def test_s7_replace_keeps_the_newer_instance(tmp_path):
    """`replace`: the newer instance replaces the older one."""
    with serving(tmp_path, {"storage.duplicates": "replace"}) as archive:
        store(archive, encoded(dataset(), raw.EXPLICIT))
        second = encoded(dataset(PatientComments="changed"), raw.EXPLICIT)
        assert store(archive, second).status == 0x0000
        (path,) = files(archive)
        assert path.read_bytes().endswith(second)


def test_s7_reject_refuses_any_known_uid(tmp_path):
    """`reject`: 0111, also for the identical instance."""
    with serving(tmp_path, {"storage.duplicates": "reject"}) as archive:
        assert store(archive, encoded(dataset(), raw.EXPLICIT)).status == 0x0000
        assert store(archive, encoded(dataset(), raw.EXPLICIT)).status == 0x0111
        assert len(files(archive)) == 1


def accepted(archive, sop_class):
    """Return whether a presentation context for this SOP Class is accepted."""
    with Raw(archive.port) as client:
        answer = client.associate((1, sop_class, [raw.EXPLICIT]))
        client.release()
    found = answer.index(b"\x21\x00", 68)
    return answer[found + 6] == 0


def test_s8_unknown_sop_classes_are_accepted_when_enabled(archive, tmp_path):
    """A private SOP Class is rejected by default and accepted with the switch; Non-Patient Objects never are."""
    assert not accepted(archive, PRIVATE)
    with serving(tmp_path / "open", {"storage.unknown_sop_classes": True}) as generous:
        assert not accepted(generous, HANGING_PROTOCOL)
        data = encoded(dataset(SOPClassUID=PRIVATE), raw.EXPLICIT)
        assert store(generous, data, sop_class=PRIVATE).status == 0x0000


def test_conflicting_parents_are_kept_with_a_warning(archive):
    """A study under a second patient: B000, the file untouched, the study stays with the first patient."""
    assert store(archive, encoded(dataset(), raw.EXPLICIT)).status == 0x0000
    other = dataset(PatientID="OTHER", SOPInstanceUID="1.2.3.9")
    sent = encoded(other, raw.EXPLICIT)
    response = store(archive, sent, instance="1.2.3.9")
    assert response.status == 0xB000
    assert response.text(0x0902)
    assert any(path.read_bytes().endswith(sent) for path in files(archive))


@pytest.mark.parametrize("kind", KINDS)
def test_p14_when_the_index_fails_nothing_is_acknowledged_or_stored(kind, request, tmp_path):
    """A700 with an Error Comment while the index cannot be written; no file remains; afterwards C-STORE succeeds."""
    with (
        fresh_database(kind, request, tmp_path) as url,
        serving(tmp_path / "pacs", {"database.url": url}) as archive,
    ):
        rename(archive, "image", "gone")
        response = store(archive, encoded(dataset(), raw.EXPLICIT))
        assert response.status == 0xA700
        assert response.text(0x0902)
        assert files(archive) == []
        rename(archive, "gone", "image")
        assert store(archive, encoded(dataset(), raw.EXPLICIT)).status == 0x0000
        assert len(files(archive)) == 1


def rename(archive, table, name):
    """Rename a table of the index, which breaks or repairs it."""
    with archive.index.write() as connection:
        connection.execute(text(f"ALTER TABLE {table} RENAME TO {name}"))


def test_p14_when_the_folder_cannot_be_written_nothing_is_acknowledged(archive):
    """A file in the place of the folder of the hour: A700 with an Error Comment."""
    from datetime import UTC, datetime
    from pathlib import Path

    root = Path(archive.config.files.url)
    (root / f"{datetime.now(UTC):%Y}").write_text("in the way")
    response = store(archive, encoded(dataset(), raw.EXPLICIT))
    assert response.status == 0xA700
    assert response.text(0x0902)


@pytest.mark.parametrize("kind", KINDS)
def test_many_senders_of_one_patient_make_one_patient(kind, request, tmp_path):
    """32 associations store the first instances of one patient at the same time: one patient, 32 studies (5.1)."""
    with (
        fresh_database(kind, request, tmp_path) as url,
        serving(tmp_path / "pacs", {"database.url": url}) as archive,
    ):

        def send(number):
            uid = f"1.2.3.{number}"
            own = dataset(StudyInstanceUID=uid, SeriesInstanceUID=uid + ".1", SOPInstanceUID=uid + ".1.1")
            return store(archive, encoded(own, raw.EXPLICIT), instance=uid + ".1.1").status

        with ThreadPoolExecutor(32) as pool:
            assert set(pool.map(send, range(32))) == {0x0000}
        with archive.index.read() as connection:
            rows = [connection.execute(text(f"SELECT count(*) FROM {each}")).scalar() for each in ("patient", "study")]
        assert rows == [1, 32]
        assert len(files(archive)) == 32


def test_memory_does_not_grow_with_the_object(archive):
    """A data set of 64 MB is written fragment by fragment: the process does not hold it."""
    import resource

    def big(megabytes):
        made = dataset(SOPInstanceUID=f"1.2.3.{megabytes}", Rows=1024, Columns=1024, NumberOfFrames=megabytes)
        made.PixelData = bytes(megabytes << 20)
        return encoded(made, raw.EXPLICIT)

    assert send_in_pieces(archive, big(1), "1.2.3.1") == 0x0000
    data = big(64)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert send_in_pieces(archive, data, "1.2.3.64") == 0x0000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 24 * 1024


def send_in_pieces(archive, data, uid):
    """Send a C-STORE in PDUs of 64 KiB and return the status."""
    with Raw(archive.port) as client:
        client.associate((1, CT, [raw.EXPLICIT]))
        command = raw.request(raw.C_STORE, 1, CT, 1, b"", [raw.element(0x1000, uid.encode())])
        client.send(command[: -len(raw.pdv(1, b"", command=False))])
        view = memoryview(data)
        for start in range(0, len(data), 65000):
            piece = bytes(view[start : start + 65000])
            client.send(raw.pdv(1, piece, command=False, last=start + 65000 >= len(data)))
        status = client.message().status
        client.release()
    return status


def test_s5_the_order_and_the_associations_of_instances_do_not_matter(archive):
    """Two series of one study, last image first, each over an association of its own, are one study of two series."""
    for made in reversed(study(series=2, instances=2)):
        uid = str(made.SOPInstanceUID)
        assert store(archive, encoded(made, raw.EXPLICIT), instance=uid).status == 0x0000
    with archive.index.read() as connection:
        tables = ("patient", "study", "series", "image")
        rows = [connection.execute(text(f"SELECT count(*) FROM {each}")).scalar() for each in tables]
    assert rows == [1, 1, 2, 4]
