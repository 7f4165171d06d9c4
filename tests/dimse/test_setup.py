"""Association establishment: cached contexts do not change any answer, to the byte."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pynetdicom import pdu
from pynetdicom.pdu_primitives import A_ASSOCIATE, SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext, negotiate_as_acceptor

from pacs.dicom.sop_classes import STORAGE, STORAGE_COMMITMENT, VERIFICATION
from pacs.dicom.syntaxes import KEPT, SERVICE_SYNTAXES
from pacs.dimse.association.establishment import CallingAE
from pacs.dimse.server import acceptor_policy
from pacs.dimse.server.acceptor_policy import AcceptorPolicy, choose_transfer_syntax
from pacs.dimse.upper import pdus
from pacs.dimse.upper.user_information import items_of
from tests import raw

FIND = "1.2.840.10008.5.1.4.1.2.2.1"
POLICY = AcceptorPolicy(transfer_syntaxes=KEPT)
CALLER = CallingAE(ae_title="RAW", called_ae_title="PACS", address="127.0.0.1")
ABSTRACT = [
    *sorted(STORAGE)[:3],
    FIND,
    VERIFICATION,
    STORAGE_COMMITMENT,
    "1.2.3.4",
    "1.2.840.10008.1.20.2",
    "0.0",
    "not-a-UID",
]
TRANSFER = [raw.EXPLICIT, raw.IMPLICIT, "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.1.99", "1.2.3"]

contexts = st.lists(
    st.tuples(st.sampled_from(ABSTRACT), st.lists(st.sampled_from(TRANSFER), max_size=4)), min_size=1, max_size=6
)
roles = st.dictionaries(st.sampled_from(ABSTRACT[:7]), st.tuples(st.booleans(), st.booleans()), max_size=2)


def role_item(uid: str, scu: bool, scp: bool) -> bytes:
    """Return an SCP/SCU Role Selection sub-item."""
    return raw.item(0x54, len(uid).to_bytes(2, "big") + uid.encode() + bytes((scu, scp)))


def decoded_by_pynetdicom(encoded: bytes) -> A_ASSOCIATE:
    """Return the primitive of a request, decoded by pynetdicom alone."""
    received = pdu.A_ASSOCIATE_RQ()
    received.decode(encoded)
    return received.to_primitive()


def negotiated_by_pynetdicom(request: A_ASSOCIATE) -> list[PresentationContext]:
    """Return pynetdicom's answer to each context, for our choice of a transfer syntax."""
    proposed_roles = {
        item.sop_class_uid: (item.scu_role, item.scp_role)
        for item in items_of(request, SCP_SCU_RoleSelectionNegotiation)
    }
    answers = []
    receives = {uid for uid, (_, scp) in proposed_roles.items() if scp}
    retrieval = POLICY.retrieval_choices(request, (), receives)
    for proposed in request.presentation_context_definition_list:
        supported, uid = PresentationContext(), str(proposed.abstract_syntax)
        if uid in STORAGE or uid in (FIND, VERIFICATION, STORAGE_COMMITMENT):
            supported.abstract_syntax = proposed.abstract_syntax
            kept = KEPT if uid in STORAGE else SERVICE_SYNTAXES
            chosen = choose_transfer_syntax(list(map(str, proposed.transfer_syntax)), list(kept))
            _, _, chosen = retrieval.get(proposed.context_id, (True, True, chosen))
            supported.add_transfer_syntax(chosen)
        if uid in STORAGE:
            supported.scu_role = supported.scp_role = True
        answers += negotiate_as_acceptor([proposed], [supported], proposed_roles)[0]
    return answers


def told(context: PresentationContext) -> tuple:
    """Return all fields of a context."""
    syntaxes = list(map(str, context.transfer_syntax))
    return context.context_id, context.abstract_syntax, syntaxes, context.result, context.as_scu, context.as_scp


def accepting(request: A_ASSOCIATE) -> A_ASSOCIATE:
    """Return our answer, which is no rejection."""
    answer = POLICY.answer(request, CALLER, 16384)
    assert isinstance(answer, tuple)
    return answer[0]


@settings(deadline=None)
@given(proposed=contexts, asked=roles)
def test_p16_the_cache_changes_no_context(proposed, asked):
    """The same contexts and answers as from pynetdicom without a cache."""
    numbered = [(2 * place + 1, *each) for place, each in enumerate(proposed)]
    extra = b"".join(role_item(uid, *role) for uid, role in asked.items())
    encoded = raw.associate_rq(numbered, extra=extra)
    expected = decoded_by_pynetdicom(encoded)
    for _ in range(2):
        primitive = pdus.decode(pdus.ASSOCIATE_RQ, encoded).to_primitive()
        ours, theirs = (each.presentation_context_definition_list for each in (primitive, expected))
        assert list(map(told, ours)) == list(map(told, theirs))
        if all(syntaxes for _, syntaxes in proposed):
            answered = accepting(primitive).presentation_context_definition_results_list
            assert list(map(told, answered)) == list(map(told, negotiated_by_pynetdicom(expected)))


def test_p16_a_context_without_transfer_syntaxes_has_none_the_next_time_either():
    """Its answer names one, which must not get into the cache."""
    encoded = raw.associate_rq([(1, FIND, [])])
    for _ in range(2):
        request = pdus.decode(pdus.ASSOCIATE_RQ, encoded).to_primitive()
        assert [each.transfer_syntax for each in request.presentation_context_definition_list] == [[]]
        assert [each.result for each in accepting(request).presentation_context_definition_results_list] == [4]


def test_p16_the_answer_to_128_contexts_is_the_same_to_the_byte():
    """128 contexts of four transfer syntaxes, uncached and cached."""
    uids = sorted(STORAGE)[:100] + [f"1.2.3.{number}" for number in range(28)]
    encoded = raw.associate_rq([(2 * place + 1, uid, TRANSFER[:4]) for place, uid in enumerate(uids)])
    request = decoded_by_pynetdicom(encoded)
    expected = accepting(request)
    expected.presentation_context_definition_results_list = negotiated_by_pynetdicom(request)
    for _ in range(2):
        answer = accepting(pdus.decode(pdus.ASSOCIATE_RQ, encoded).to_primitive())
        assert encoded_answer(answer) == encoded_answer(expected)


def encoded_answer(primitive: A_ASSOCIATE) -> bytes:
    """Return the encoded A-ASSOCIATE-AC."""
    answer = pdu.A_ASSOCIATE_AC()
    answer.from_primitive(primitive)
    return answer.encode()


@pytest.mark.parametrize("number", [0, 2, 256 - 2])
def test_p17_a_context_keeps_its_even_id(number):
    """Contexts with the same cached content have different IDs."""
    sent = raw.associate_rq([(each, FIND, [raw.EXPLICIT]) for each in (1, number)])
    request = pdus.decode(pdus.ASSOCIATE_RQ, sent).to_primitive()
    assert [each.context_id for each in request.presentation_context_definition_list] == [1, number]


def test_p6_the_cache_of_contexts_is_bounded():
    """In number and length of the contexts: a hostile peer cannot fill the memory."""
    many = ".".join(["1.2.840.10008.1"] + ["1"] * 24)
    before = pdus._context_of.cache_info().currsize
    pdus.decode(pdus.ASSOCIATE_RQ, raw.associate_rq([(1, FIND, [many] * 100)]))
    assert pdus._context_of.cache_info().currsize == before
    assert pdus._context_of.cache_info().maxsize == 1024
    assert acceptor_policy._answer.cache_info().maxsize == 4096
