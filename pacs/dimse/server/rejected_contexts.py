"""Notes which presentation contexts a receiver rejects: a retrieve that fails for these can say so."""

from collections.abc import Iterator

from pydicom.uid import UID
from pynetdicom.pdu_primitives import A_ASSOCIATE

from pacs.dimse.association.establishment import CallingAE, Policy
from pacs.dimse.upper.rejections import Rejection
from pacs.dimse.upper.user_information import Agreement

MOST_NOTED = 3
"""How many SOP Classes are noted."""


class ContextNotingPolicy:
    """Answers association requests as `policy` does, and notes what it accepts in no context."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._rejected: dict[str, None] = {}

    @property
    def rejected(self) -> str:
        """What was proposed and not accepted, as sentences, '' for nothing."""
        return "; ".join(self._rejected)

    def answer(
        self, request: A_ASSOCIATE, caller: CallingAE, max_pdu: int
    ) -> tuple[A_ASSOCIATE, Agreement] | Rejection:
        """Return the answer of the policy."""
        answer = self._policy.answer(request, caller, max_pdu)
        if not isinstance(answer, Rejection):
            for sentence in _rejected(request, answer[1]):
                if len(self._rejected) < MOST_NOTED:
                    self._rejected[sentence] = None
        return answer


def _rejected(request: A_ASSOCIATE, agreement: Agreement) -> Iterator[str]:
    """Yield a sentence for each SOP Class of a request without an accepted context."""
    accepted = {each.abstract_syntax for each in agreement.contexts.values()}
    proposed: dict[str, dict[str, None]] = {}
    for each in request.presentation_context_definition_list or ():
        proposed.setdefault(str(each.abstract_syntax), {}).update(dict.fromkeys(map(str, each.transfer_syntax)))
    for sop_class, syntaxes in proposed.items():
        if sop_class not in accepted:
            named = " or ".join(UID(uid).name for uid in syntaxes)
            yield f"the sender proposed {UID(sop_class).name} only in {named}, which is not accepted here"
