"""The presentation contexts for sending instances (PS3.4 B.5, PS3.7 D.3.3.2): those to propose and the one to use."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from pacs.dicom import syntaxes
from pacs.dimse.upper.user_information import MAX_CONTEXTS, Context

Proposal = tuple[str, tuple[str, ...]]
"""An abstract syntax and the transfer syntaxes proposed for it in one presentation context."""

CONVERTED_INTO = (
    syntaxes.EXPLICIT_LITTLE,
    syntaxes.IMPLICIT_LITTLE,
    syntaxes.EXPLICIT_BIG,
    syntaxes.DEFLATED_LITTLE,
)
"""The transfer syntaxes proposed for a native data set besides its own, in order of preference."""


class Sendable(Protocol):
    """An instance to be sent."""

    @property
    def sop_class_uid(self) -> str:
        """Its SOP Class."""

    @property
    def transfer_syntax(self) -> str:
        """The transfer syntax of its stored data set."""


def proposals(instance: Sendable) -> tuple[Proposal, ...]:
    """Return the contexts for an instance: one with its transfer syntax, and for native ones one to convert to.

    The second always includes Implicit VR Little Endian (PS3.5 10.1). There are two contexts so that the acceptor
    accepts the stored transfer syntax if it can, whatever it prefers.
    """
    own = instance.transfer_syntax
    exact = (instance.sop_class_uid, (own,))
    if not syntaxes.is_native(own):
        return (exact,)
    return exact, (instance.sop_class_uid, tuple(uid for uid in CONVERTED_INTO if uid != own))


Instance = TypeVar("Instance", bound=Sendable)


@dataclass(frozen=True, slots=True)
class Batch(Generic[Instance]):
    """Instances whose presentation contexts fit on one association."""

    proposals: tuple[Proposal, ...]
    instances: tuple[Instance, ...]


def batches(instances: Iterable[Instance]) -> Iterator[Batch[Instance]]:
    """Divide instances, in order, among associations of at most 128 contexts each (V9 and P16, docs/checklist.md)."""
    proposed: dict[Proposal, None] = {}
    batch: list[Instance] = []
    for instance in instances:
        needed = dict.fromkeys(proposals(instance))
        if len(proposed | needed) > MAX_CONTEXTS:
            yield Batch(tuple(proposed), tuple(batch))
            proposed, batch = {}, []
        proposed |= needed
        batch.append(instance)
    if batch:
        yield Batch(tuple(proposed), tuple(batch))


def context_for(instance: Sendable, contexts: Iterable[Context]) -> Context | None:
    """Return the accepted context for an instance: with its stored transfer syntax, else one that it converts to."""
    usable = {
        each.transfer_syntax: each
        for each in contexts
        if each.abstract_syntax == instance.sop_class_uid and each.as_scu
    }
    if instance.transfer_syntax in usable or not syntaxes.is_native(instance.transfer_syntax):
        return usable.get(instance.transfer_syntax)
    return next((usable[uid] for uid in CONVERTED_INTO if uid in usable), None)
