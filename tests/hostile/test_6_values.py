"""Values that their VR does not allow: the instance is stored, and found by its valid values.

tests/dimse/test_hostile_values.py has invalid character sets.
"""

import pytest

from pacs.testing import study
from tests import raw
from tests.archives import FIND, identifier
from tests.docs.requests import store
from tests.hostile.daemons import Daemon
from tests.raw import IMPLICIT, Raw, request

VALUES = {
    "no date": {"StudyDate": b"00000000"},
    "a month 99": {"StudyDate": b"20209999"},
    "a date of letters": {"StudyDate": b"ABCDEFGH", "StudyTime": b"99:99:99"},
    "a range for a date": {"StudyDate": b"20200101-20201231"},
    "a name of seven components": {"PatientName": b"A^B^C^D^E^F^G"},
    "a name of ten groups": {"PatientName": b"A=B=C=D=E=F=G=H=I=J "},
    "a name of delimiters": {"PatientName": b"^=" * 5000},
    "a number beyond 64 bits": {"SeriesNumber": b"9" * 30, "InstanceNumber": b"-" + b"9" * 31},
    "a number of 16 kB": {"InstanceNumber": b"1" * 16384},
    "no number": {"InstanceNumber": b"NaN ", "SeriesNumber": b"1e999 "},
    "a text of 16 MiB": {"StudyDescription": b"x" * (16 << 20)},
    "values by the hundred thousand": {"ReferringPhysicianName": b"A\\" * 100_000},
    "an unknown character set": {"SpecificCharacterSet": b"ISO_IR 999"},
    "contradicting character sets": {"SpecificCharacterSet": b"ISO_IR 192\\GB18030\\ISO 2022 IR 87"},
    "an escape that is not reset": {"SpecificCharacterSet": b"\\ISO 2022 IR 87 ", "PatientName": b"\x1b$B;3ED^\x1b$B"},
    "a backslash in GBK": {"SpecificCharacterSet": b"GBK ", "PatientName": b"\x81\x5c\x81\x5c^\x81"},
    "a backslash in Shift JIS": {"SpecificCharacterSet": b"ISO_IR 13 ", "PatientName": b"\x83\x5c\x83\x5c^\x83"},
    "half a letter": {"SpecificCharacterSet": b"ISO_IR 192", "PatientName": b"\xe5\xb1^\xf0\x9f"},
    "control characters": {"StudyDescription": b"\x1b]0;x\x07\x1b[2J\r\n\0\x08", "PatientID": b"P\r\nX"},
    "markup": {"StudyDescription": b"<script>alert(1)</script>{{7*7}}", "PatientComments": b"%s%n\0"},
    "a UID with spaces": {"FrameOfReferenceUID": b" 1.2.3 .4 "},
    "a modality of 1 kB": {"Modality": b"C" * 1024},
}
"""Values by keyword."""


@pytest.mark.parametrize("name", VALUES)
def test_an_instance_with_invalid_values_is_stored_and_found(daemon: Daemon, name: str) -> None:
    """With 0000, or refused with a log line; a query for all of its values is answered."""
    number = 1 + list(VALUES).index(name)
    (dataset,) = study(series=1, instances=1, patient_id=f"VALUES{number}")
    places = {keyword: f"PLACE{place}X" for place, keyword in enumerate(VALUES[name])}
    for keyword, place in places.items():
        dataset.add_new(keyword, "UT", place)
    data = raw.encoded(dataset, IMPLICIT)
    for keyword, place in places.items():
        value = VALUES[name][keyword] + b" " * (len(VALUES[name][keyword]) % 2)
        head = data.index(place.encode()) - 4
        data = data[:head] + len(value).to_bytes(4, "little") + value + data[head + 4 + 8 :]
    uid = dataset.SOPInstanceUID
    status = store(daemon.port, data, syntax=IMPLICIT, sop_class=dataset.SOPClassUID, instance=uid).status
    assert status in (0x0000, 0xB000) or status >> 12 in (0xA, 0xC)
    daemon.lines = int(status != 0)
    with Raw(daemon.port) as client:
        client.associate((1, FIND, [IMPLICIT]), calling="CHECK")
        for level, keys in (
            ("STUDY", {"StudyInstanceUID": dataset.StudyInstanceUID}),
            ("IMAGE", {"SOPInstanceUID": uid}),
        ):
            asked = dict.fromkeys([each for each in VALUES[name] if each != "SpecificCharacterSet"], "") | keys
            client.send(request(raw.C_FIND, 1, FIND, 1, identifier(level, **asked)))
            answers = client.until_final()
            assert answers[-1].status == 0x0000
            assert len(answers) == 2 or status >> 12 in (0xA, 0xC)
        client.release()
