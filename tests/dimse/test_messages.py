"""Command sets to and from bytes, and messages split into fragments and assembled again."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset

from pacs.dimse.messages.command import Command, CommandField, Template
from pacs.dimse.messages.message import COMMAND, LAST, Assembler, Message, p_data, pdvs
from pacs.dimse.upper.user_information import Context
from pacs.errors import OutOfResources, ProtocolViolation
from tests.dimse import raw

CONTEXT = Context(3, raw.CT, raw.EXPLICIT, as_scu=False, as_scp=True)


def encoded(command: Command, *, data_set: bool = False) -> bytes:
    """Return the encoded command."""
    return command.announcing(data_set=data_set).encode()


def nothing(_message: Message) -> memoryview:
    """Fail: there is no connection to read from."""
    raise AssertionError("nothing more can come")


# --- command sets ------------------------------------------------------------------------------------------------


def test_pydicom_decodes_an_encoded_command() -> None:
    """pydicom decodes it: Implicit VR Little Endian, group length first, even padding."""
    command = Command.request(
        CommandField.C_STORE,
        7,
        raw.CT,
        priority=0,
        affected_sop_instance_uid="1.2.345",
        move_originator_ae_title="ASKER",
        move_originator_message_id=3,
    )
    data = encoded(command, data_set=True)
    read = read_dataset(DicomBytesIO(data), is_implicit_VR=True, is_little_endian=True)
    assert read[0x00000000].value == len(data) - 12
    assert [read[tag].value for tag in (0x00000002, 0x00000100, 0x00000110, 0x00001000)] == [raw.CT, 1, 7, "1.2.345"]
    assert (read[0x00001030].value, read[0x00001031].value) == ("ASKER", 3)
    assert read[0x00000800].value != 0x0101
    assert list(read.keys()) == sorted(read.keys())


@pytest.mark.parametrize("uid", ["1.2.3", "1.2.34", "2.25." + "9" * 39])
def test_a_template_is_encoded_as_the_command_would_be(uid: str) -> None:
    """Only the changing elements, the group length and the padding differ from message to message."""
    fields = {"priority": 1, "move_originator_ae_title": "ASKER", "move_originator_message_id": 3}
    command = Command.request(CommandField.C_STORE, 0, raw.CT, affected_sop_instance_uid="", **fields)
    template = Template(command, data_set=True, changing=("message_id", "affected_sop_instance_uid"))
    for message_id in (1, 65535):
        expected = Command.request(CommandField.C_STORE, message_id, raw.CT, affected_sop_instance_uid=uid, **fields)
        assert template.encode(message_id, uid) == encoded(expected, data_set=True)


def test_a_template_of_a_response_changes_its_counts() -> None:
    """The Pending responses of a retrieve differ only in the counts (V6)."""
    request = Command.request(CommandField.C_MOVE, 7, raw.STUDY_FIND)
    names = ("remaining", "completed", "failed", "warning")
    template = Template(request.response(0xFF00, **dict.fromkeys(names, 0)), data_set=False, changing=names)
    expected = request.response(0xFF00, remaining=4, completed=3, failed=2, warning=1)
    assert template.encode(4, 3, 2, 1) == encoded(expected)


def test_a_command_without_a_data_set_says_0101() -> None:
    """The Command Data Set Type is set when the command is sent."""
    command = Command.request(CommandField.C_ECHO, 1, raw.VERIFICATION)
    assert not Command.decode(encoded(command)).has_data_set
    assert Command.decode(encoded(command, data_set=True)).has_data_set


def test_a_response_answers_its_request() -> None:
    """Its field has bit 15; it has the Message ID, and the SOP Class and Instance of the request."""
    request = Command.request(CommandField.C_STORE, 9, raw.CT, affected_sop_instance_uid="1.2.3")
    response = Command.decode(
        encoded(request.response(0xA700, error_comment="No space", offending_elements=[0x0020000D]))
    )
    assert (response.field, response.responding_to, response.status) == (0x8001, 9, 0xA700)
    assert (response.affected_sop_class_uid, response.affected_sop_instance_uid) == (raw.CT, "1.2.3")
    assert (response.error_comment, response.offending_elements) == ("No space", (0x0020000D,))
    assert response.is_response
    find = Command.request(CommandField.C_FIND, 9, raw.STUDY_FIND).response(0xFF00)
    assert find.affected_sop_instance_uid is None


def test_a_response_has_only_the_given_counts() -> None:
    """V6: a count of 0 is an element, None is not."""
    request = Command.request(CommandField.C_MOVE, 1, raw.STUDY_FIND)
    some = Command.decode(encoded(request.response(0, completed=0, failed=2, warning=0)))
    assert (some.remaining, some.completed, some.failed, some.warning) == (None, 0, 2, 0)


@pytest.mark.parametrize(
    ("comment", "sent"),
    [("x" * 100, "x" * 64), ("a\\b", "a/b"), ("a\nb\x1b", "a b"), ("Ärger", "?rger")],
)
def test_an_error_comment_is_cut_to_a_valid_lo(comment: str, sent: str) -> None:
    """One value of an LO in the default character set, at most 64 characters long."""
    request = Command.request(CommandField.C_ECHO, 1, raw.VERIFICATION)
    assert Command.decode(encoded(request.response(0x0110, error_comment=comment))).error_comment == sent


def test_an_invalid_uid_is_echoed_unchanged() -> None:
    """Bytes beyond ASCII do not prevent a response."""
    odd = raw.command(raw.CT, 0x0001, data_set=True, more=raw.element(0x1000, b"\xff../x\0"))
    command = Command.decode(odd)
    assert command.affected_sop_instance_uid == "\xff../x"
    assert b"\xff../x" in encoded(command.response(0xA901))


def test_the_padding_of_uids_and_titles_is_removed() -> None:
    """UIDs end in NUL, some in a space; AE titles in spaces."""
    more = raw.element(0x0600, b"  DEST  ") + raw.element(0x1000, b"1.2\0")
    command = Command.decode(raw.command(raw.CT, 0x0021, more=more))
    assert (command.move_destination, command.affected_sop_instance_uid) == ("DEST", "1.2")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_command_or_a_protocol_violation(data: bytes) -> None:
    """There is no other error."""
    try:
        Command.decode(data)
    except ProtocolViolation:
        return


@given(st.binary(max_size=60), st.integers(0, 80))
def test_a_damaged_command_is_a_command_or_a_protocol_violation(damage: bytes, where: int) -> None:
    """It begins with a valid one, so that the damage reaches every part of it."""
    right = raw.command(raw.CT, 0x0001, data_set=True, more=raw.uid(0x1000, "1.2.3"))
    try:
        command = Command.decode(right[:where] + damage + right[where + len(damage) :])
    except ProtocolViolation:
        return
    assert command.field in range(0x10000)


# --- fragments ---------------------------------------------------------------------------------------------------


def cut_up(command: bytes, data: list[bytes] | None, max_pdu: int) -> list[bytes]:
    """Return the PDUs of a message."""
    stream = b"".join(bytes(each) for batch in p_data(3, command, data, max_pdu) for each in batch)
    found = []
    while stream:
        kind, length = struct.unpack_from(">BxL", stream)
        assert kind == raw.DATA
        assert length <= max_pdu
        found.append(stream[6 : 6 + length])
        stream = stream[6 + length :]
    return found


def put_together(bodies: list[bytes]) -> tuple[bytes, bytes, list[int]]:
    """Return the command, the data set and the lengths of its fragments."""
    command, data, lengths = b"", b"", []
    for body in bodies:
        for context_id, control, fragment in pdvs(memoryview(body)):
            assert context_id == 3
            if control & COMMAND:
                command += fragment
            else:
                data += fragment
                lengths.append(len(fragment))
    return command, data, lengths


@given(
    data=st.lists(st.binary(max_size=90), max_size=8),
    max_pdu=st.integers(8, 100),
    command=st.binary(min_size=2, max_size=60),
)
def test_a_message_is_assembled_as_it_was_split(data: list[bytes], max_pdu: int, command: bytes) -> None:
    """For any chunks and maximum length: no PDU is too long, and all fragments but the last are even and full."""
    bodies = cut_up(command, data, max_pdu)
    came, stream, lengths = put_together(bodies)
    assert (came, stream) == (command, b"".join(data))
    assert all(length == (max_pdu - 6) & ~1 for length in lengths[:-1])
    last = [control & LAST for body in bodies for _, control, _ in pdvs(memoryview(body))]
    assert sum(1 for each in last if each) == 2


def test_a_message_without_a_data_set_is_one_pdu() -> None:
    """And one with an empty data set has an empty last fragment."""
    assert len(cut_up(b"\0\0", None, 16384)) == 1
    assert put_together(cut_up(b"\0\0", [], 16384))[2] == [0]


def test_a_long_data_set_is_written_in_batches_without_copies() -> None:
    """A batch is about a mebibyte, and its parts are views of the chunks themselves."""
    chunk = bytearray(5 << 20)
    batches = list(p_data(3, b"\0\0", [chunk], 131_072))
    assert max(sum(len(each) for each in batch) for batch in batches) < 5 << 18
    views = [each for batch in batches for each in batch if isinstance(each, memoryview) and len(each) > 1000]
    assert all(view.obj is chunk for view in views)


def test_a_data_set_longer_than_the_limit_is_not_kept() -> None:
    """Reading stops at the first byte too many."""
    message = Message(CONTEXT, Command.decode(raw.command(raw.CT, 1, data_set=True)), nothing)
    message.hold(bytes(100))
    message.hold(bytes(100))
    with pytest.raises(OutOfResources):
        message.read(150)
    assert message.held == 0


def test_queued_fragments_are_read_first() -> None:
    """Fragments are read in the order of their arrival."""
    message = Message(CONTEXT, Command.decode(raw.command(raw.CT, 1, data_set=True)), nothing)
    message.hold(b"ab")
    message.hold(b"cd")
    assert message.held == 4
    message.is_complete = True
    assert message.read(10) == b"abcd"
    assert message.held == 0


def test_an_assembler_knows_what_is_missing() -> None:
    """In a command set, in a data set, and between messages."""
    assembler = Assembler({3: CONTEXT}, nothing)
    command = memoryview(raw.command(raw.CT, 1, data_set=True))
    assert not assembler.has_partial_message
    assert assembler.command(3, COMMAND, command[:9]) is None
    assert assembler.has_partial_command
    message = assembler.command(3, COMMAND | LAST, command[9:])
    assert message is not None
    assert not assembler.has_partial_command
    assert assembler.has_partial_message
    assert assembler.data(3, LAST) is message
    assert message.is_complete
    assert not assembler.has_partial_message
