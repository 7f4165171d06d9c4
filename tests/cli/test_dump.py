"""`pacs dump`."""

import json
import os
import re
import subprocess
import tracemalloc
import zlib
from struct import pack

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from pacs.dicom.bounds import DataSetBounds
from pacs.testing import study, write
from tests.pixels.converting import changed, encoded
from tests.pixels.samples import file_of, sample
from tests.programs import needs
from tests.real_files import PART10, CheckFiles, named


@pytest.fixture
def check_files(request):
    """Run a check on the sample of the real files, or with --long on all."""
    return CheckFiles(is_long=request.config.getoption("--long"))


@pytest.fixture
def dump(pacs, tmp_path):
    """Return the output of `pacs dump` for a data set, bytes or a file; the exit status must be 0."""

    def run(what, *words, exit_code=0):
        path = what
        if isinstance(what, Dataset | bytes):
            path = tmp_path / "dumped.dcm"
            path.write_bytes(what if isinstance(what, bytes) else file_of(what))
        done = pacs("dump", path, *words)
        assert done.exit_code == exit_code, done.output
        return done.stdout if exit_code == 0 else done

    return run


def instance(**attributes):
    """Return an instance with further attributes."""
    return changed(study(series=1, instances=1)[0], **attributes)


# --- for people -----------------------------------------------------------------------------------------------------


def test_elements_have_a_line_each_with_tag_vr_name_and_value(dump):
    """UIDs with their names, tags as tags, numbers as numbers, File Meta Information first."""
    lines = dump(instance(Rows=3, FrameIncrementPointer=0x00181063)).splitlines()
    assert lines[0].startswith("(0002,0000) UL FileMetaInformationGroupLength ")
    assert "(0002,0010) UI TransferSyntaxUID            1.2.840.10008.1.2.1 (Explicit VR Little Endian)" in lines
    assert "(0008,0016) UI SOPClassUID                  1.2.840.10008.5.1.4.1.1.2 (CT Image Storage)" in lines
    assert "(0028,0010) US Rows                         3" in lines
    assert "(0028,0009) AT FrameIncrementPointer        (0018,1063)" in lines


def test_sequences_are_indented_and_their_items_counted(dump):
    """At any depth."""
    inner = changed(Dataset(), CodeValue="T-1")
    outer = changed(Dataset(), ViewModifierCodeSequence=[inner, inner])
    shown = dump(instance(ViewCodeSequence=[outer, Dataset()]))
    assert """
(0054,0220) SQ ViewCodeSequence
  item 1
    (0054,0222) SQ ViewModifierCodeSequence
      item 1
        (0008,0100) SH CodeValue                    T-1
      item 2
        (0008,0100) SH CodeValue                    T-1
  item 2
""" in shown  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("chrH31.dcm", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("chrRuss.dcm", "Люкceмбypг"),
        ("chrKoreanMulti.dcm", "김희중"),
        ("chrX2.dcm", "Wang^XiaoDong=王^小东"),
    ],
)
def test_text_is_decoded_with_its_character_set(dump, name, text):
    """In lines and in JSON."""
    assert text in dump(named(name), "-k", "PatientName")
    groups = json.loads(dump(named(name), "--json"))["00100010"]["Value"][0]
    assert "=".join(groups.values()) == text


def test_private_elements_have_the_name_of_their_creator(dump):
    """Those in pydicom's dictionary their own name, too, and their VR where VRs are implicit."""
    shown = dump(named("CT_small.dcm"))
    assert "(0009,1001) LO Full fidelity [GEMS_IDEN_01] GE_GENESIS_FF" in shown
    dataset = instance()
    block = dataset.private_block(0x0041, "OURS", create=True)
    block.add_new(0x01, "LO", "value")
    assert "(0041,1001) LO [OURS]                       value" in dump(dataset)
    dataset.add_new(0x00431001, "LO", "stray")
    assert "(0043,1001) LO [?]                          stray" in dump(dataset)


def test_control_characters_do_not_reach_the_terminal(dump):
    """They are escaped, in lines and in JSON."""
    dataset = instance(ImageComments="one\r\ntwo \x1b[31mred")
    assert r"one\r\ntwo \x1b[31mred" in dump(dataset)
    assert "\x1b" not in dump(dataset, "--json")
    assert json.loads(dump(dataset, "--json"))["00204000"]["Value"] == ["one\r\ntwo \x1b[31mred"]


def test_long_values_are_shortened_to_the_width_of_the_terminal(dump, monkeypatch):
    """Counted in columns, which some characters take two of; not what is chosen by `-k`."""
    from pacs.cli import dump as module

    monkeypatch.setattr(module, "_width", lambda: 80)
    dataset = instance(ImageComments="word " * 100, InstitutionName="山" * 60, SpecificCharacterSet="ISO_IR 192")
    lines = dump(dataset).splitlines()
    comments = next(line for line in lines if "ImageComments" in line)
    assert len(comments) <= 80
    assert comments.endswith("…")
    institution = next(line for line in lines if "InstitutionName" in line)
    assert len(institution) + institution.count("山") <= 80
    assert dump(dataset, "-k", "ImageComments").rstrip().endswith(" word word")


def test_compressed_pixels_are_counted(dump):
    """Without the Basic Offset Table."""
    made = sample("1.2.840.10008.1.2.5", frames=3).compressed
    assert re.search(r"\(7FE0,0010\) OB PixelData +\d+ bytes in 3 fragments\n$", dump(made))


def test_as_many_elements_are_shown_as_by_dcmdump(check_files, dump):
    """Of real files."""

    def elements(text):
        tags = re.findall(r"^ *\(([0-9a-fA-F]{4},[0-9a-fA-F]{4})\)", text, re.MULTILINE)
        return [tag.lower() for tag in tags if not tag.lower().startswith("fffe,")]

    def check(path):
        done = subprocess.run([needs("dcmdump"), "-q", path], capture_output=True, check=False)
        if done.returncode == 0:
            reference = elements(done.stdout.decode("latin_1"))
            assert elements(dump(path)) == reference

    others = {
        "DICOMDIR-nooffset", "winter.dcm",  # cut off, and with an element twice, of which DCMTK drops one
        "bad_sequence.dcm", "rtdose_rle.dcm", "rtdose_rle_1frame.dcm",  # DCMTK shows sequences in UN as bytes
    }  # fmt: skip
    check_files(check, [path for path in PART10 if path.name not in others])


def test_sequences_that_are_encoded_as_un_are_shown(dump):
    """In Implicit VR, with the character set of the data set (PS3.5 6.2.2)."""
    item = b"\x08\0\x04\x01\x06\0\0\0d\xe9j\xe0  "
    sequence = pack("<HHL", 0xFFFE, 0xE000, len(item)) + item
    head = b"\x08\0\x05\0CS\x0a\0ISO_IR 100"
    data = head + pack("<HH2sHL", 0x0054, 0x0220, b"UN", 0, len(sequence)) + sequence
    assert "  item 1\n    (0008,0104) LO CodeMeaning                  déjà\n" in dump(data)
    assert json.loads(dump(data, "--json"))["00540220"]["Value"][0]["00080104"]["Value"] == ["déjà"]
    other = head + pack("<HH2sHL", 0x0054, 0x0220, b"UN", 0, 10) + bytes(10)
    assert "(0054,0220) UN ViewCodeSequence             10 bytes: 00" in dump(other)


# --- chosen elements -------------------------------------------------------------------------------------------------


def test_elements_are_chosen_by_keyword_tag_or_path(dump):
    """Several, in the order of the data set; a sequence with all that it contains."""
    dataset = instance(ViewCodeSequence=[changed(Dataset(), CodeValue="T-1", CodeMeaning="one")])
    assert dump(dataset, "-k", "Modality", "-k", "0010,0020").splitlines() == [
        f"(0008,0060) CS Modality                     {dataset.Modality}",
        f"(0010,0020) LO PatientID                    {dataset.PatientID}",
    ]
    assert [
        line.split()[2] for line in dump(dataset, "-k", "ViewCodeSequence.CodeValue").splitlines() if "(" in line
    ] == [
        "ViewCodeSequence",
        "CodeValue",
    ]
    assert "CodeMeaning" in dump(dataset, "-k", "ViewCodeSequence")
    chosen = json.loads(dump(dataset, "--json", "-k", "ViewCodeSequence.CodeMeaning"))
    assert chosen == {"00540220": {"vr": "SQ", "Value": [{"00080104": {"vr": "LO", "Value": ["one"]}}]}}


def test_an_element_that_is_not_there_is_said(dump, pacs):
    """With exit status 1; an unknown keyword is a usage error with a suggestion."""
    assert dump(instance(), "-k", "LensMake", exit_code=1).stderr.endswith("dumped.dcm has none of these elements\n")
    unknown = pacs("dump", named("CT_small.dcm"), "-k", "PatientNam")
    assert unknown.exit_code == 2
    assert "PatientName" in unknown.stderr


# --- JSON ------------------------------------------------------------------------------------------------------------


def alike(ours, theirs, path=""):
    """Yield how the data set in JSON differs from pydicom's, except for what PS3.18 F has otherwise.

    Words in big endian stay so in pydicom's.
    """
    for tag in sorted(set(ours) | set(theirs)):
        if (
            tag.endswith("0000")
            or ours.get(tag, {}).get("vr") == "OW"
            or tag in ("00080005", "FFFCFFFC")
            or "BulkDataURI" in ours.get(tag, {})
        ):
            continue
        one, other = ours.get(tag), theirs.get(tag)
        if one and other and one["vr"] == other["vr"] == "SQ":
            for item, its in zip(one.get("Value", []), other.get("Value", []), strict=True):
                yield from alike(item, its, f"{path}{tag}.")
        elif one is None or other is None or stripped(one) != stripped(other):
            yield f"{path}{tag}: {one} {other}"


def stripped(element):
    """Return an element with its texts without padding, '' for no value."""
    values = [each.strip() if isinstance(each, str) else each or "" for each in element.get("Value", [])]
    return element["vr"], element.get("InlineBinary"), values


def test_json_is_that_of_pydicom(check_files, dump):
    """Of real files: tags, VRs, values, sequences."""

    def check(path):
        try:
            reference = dcmread(path).to_json_dict()
        except ValueError:  # of a value that it does not convert
            return
        assert not list(alike(json.loads(dump(path, "--json")), reference))

    others = {
        "emri_small_jpeg_2k_lossless_too_short.dcm",  # it reads nothing of this one
        "MR_truncated.dcm", "rtplan_truncated.dcm", "DICOMDIR-nooffset", "badVR.dcm",
    }  # fmt: skip
    check_files(check, [path for path in PART10 if path.name not in others])


def test_long_and_compressed_values_are_bulk_data(dump, tmp_path):
    """Their URI has the position in the file, from which they can be read."""
    dataset = instance(Rows=1, ICCProfile=("OB", bytes(range(256)) * 300))
    value = json.loads(dump(dataset, "--json"))["00282000"]
    where, offset, length = re.fullmatch(r"file://(.*)\?offset=(\d+)&length=(\d+)", value["BulkDataURI"]).groups()
    content = (tmp_path / "dumped.dcm").read_bytes()
    assert where == str(tmp_path / "dumped.dcm")
    assert content[int(offset) : int(offset) + int(length)] == dataset.ICCProfile
    compressed = json.loads(dump(sample("1.2.840.10008.1.2.5").compressed, "--json"))["7FE00010"]
    assert set(compressed) == {"vr", "BulkDataURI"}


def test_numbers_that_are_none_are_text_in_json(dump):
    """Nothing is invented or lost."""
    data = encoded(instance(SliceThickness="1.5", InstanceNumber="7")).replace(b"1.5 ", b"1,5 ")
    values = json.loads(dump(data, "--json"))
    assert values["00180050"]["Value"] == ["1,5"]
    assert values["00200013"]["Value"] == [7]


# --- the archive -----------------------------------------------------------------------------------------------------


def test_an_instance_of_the_archive_is_shown_by_its_uid(pacs, tmp_path):
    """Other UIDs and names are refused with what to type."""
    (made,) = study(series=1, instances=1)
    write([made], tmp_path / "in")
    pacs("import", tmp_path / "in")
    shown = pacs("dump", made.SOPInstanceUID)
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert f"PatientID                    {made.PatientID}" in shown.stdout
    unknown = pacs("dump", "1.2.3")
    assert (unknown.exit_code, unknown.stderr) == (
        1,
        "pacs: the archive has no instance 1.2.3; list those it has with `pacs ls images`\n",
    )
    of_study = pacs("dump", made.StudyInstanceUID)
    assert (
        f"is a study; list its instances with `pacs ls images StudyInstanceUID={made.StudyInstanceUID}`"
        in of_study.stderr
    )
    assert "'x.dcm' is neither a file nor a UID" in pacs("dump", "x.dcm").stderr
    assert "is a folder" in pacs("dump", tmp_path / "in").stderr


# --- hostile and damaged files --------------------------------------------------------------------------------------


def test_what_comes_before_damage_is_shown(dump):
    """With a sentence and exit status 1; JSON is complete."""
    item = changed(Dataset(), CodeValue="T-1", CodeMeaning="one" * 20)
    dataset = instance(ViewCodeSequence=[item])
    dataset["ViewCodeSequence"].is_undefined_length = item.is_undefined_length_sequence_item = True
    data = file_of(dataset)
    cut = data[: data.index(b"oneone") + 9]
    done = dump(cut, exit_code=1)
    assert "dumped.dcm: The data set ends in the middle of an element (after " in done.stderr
    assert "T-1" in done.stdout
    whole = json.loads(dump(cut, "--json", exit_code=1).stdout)
    assert whole["00540220"]["Value"] == [{"00080100": {"vr": "SH", "Value": ["T-1"]}}]


@pytest.mark.parametrize(
    "content", [b"", b"hello, this is a text\n" * 9, bytes(5000), b"\x89PNG\r\n\x1a\n" + bytes(100)]
)
def test_what_is_not_dicom_is_said(dump, content):
    """In one sentence."""
    done = dump(content, exit_code=1)
    assert "dumped.dcm: Not a DICOM file" in done.stderr
    assert done.stderr.count("\n") == 1


def test_nesting_number_and_size_of_elements_are_bounded(dump, monkeypatch):
    """Each ends with a sentence."""
    monkeypatch.setattr("pacs.dicom.described.BOUNDS", DataSetBounds(elements=10_000))
    sequence = pack("<HH2sHLHHL", 0x0054, 0x0220, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
    head = b"\x08\0\x16\0UI\x1a\0" + b"1.2.840.10008.5.1.4.1.1.7\0"
    assert "nested deeper than 64" in dump(head + sequence * 5000, exit_code=1).stderr
    many = pack("<HH2sH", 0x0009, 0x0001, b"CS", 0) * 9_000
    assert "has more than 10000 elements" in dump(head + many * 3, exit_code=1).stderr
    deflater = zlib.compressobj(9, wbits=-15)
    bomb = b"".join(deflater.compress(many) for _ in range(1000)) + deflater.flush()
    deflated = instance()
    deflated.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1.99"
    meta = file_of(deflated)
    start = meta[: 144 + int.from_bytes(meta[140:144], "little")]
    assert "has more than 10000 elements" in dump(start + bomb, exit_code=1).stderr


def test_a_value_of_any_length_is_read_only_at_its_beginning(dump, pacs, tmp_path):
    """Of a gibibyte a few; a file that claims more than it has is cut off."""
    head = b"\x08\0\x16\0UI\x1a\0" + b"1.2.840.10008.5.1.4.1.1.7\0"
    claimed = head + pack("<HH2sHL", 0x0042, 0x0011, b"OB", 0, 0xFFFFFFF0) + b"%PDF"
    assert "ends in the middle of an element" in dump(claimed, exit_code=1).stderr
    long = tmp_path / "long.dcm"
    long.write_bytes(head + pack("<HH2sHL", 0x0042, 0x0011, b"OB", 0, 1 << 30))
    os.truncate(long, long.stat().st_size + (1 << 30))
    tracemalloc.start()
    shown, as_json = pacs("dump", long), pacs("dump", long, "--json")
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "EncapsulatedDocument         1073741824 bytes: 00 00" in shown.stdout
    assert "length=1073741824" in as_json.stdout
    assert most < 16 << 20


def test_an_element_that_occurs_twice_is_shown_twice_and_once_in_json(dump):
    """A member of a JSON object has a name of its own."""
    twice = b"\x08\0\x60\0CS\x02\0CT" + b"\x08\0\x60\0CS\x02\0MR"
    assert dump(twice).count("Modality") == 2
    assert dump(twice, "--json") == '{\n  "00080060": {"vr": "CS", "Value": ["CT"]}\n}\n'
