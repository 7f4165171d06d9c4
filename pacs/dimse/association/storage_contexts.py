"""The presentation contexts for sending instances (PS3.4 B.5, PS3.7 D.3.3.2): those to propose and those to use."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, Protocol, TypeVar

from pydicom.uid import UID

from pacs.dicom import syntaxes
from pacs.dimse.upper.user_information import MAX_CONTEXTS, Agreement, Context
from pacs.pixels import capabilities

Proposal = tuple[str, tuple[str, ...]]
"""An abstract syntax and the transfer syntaxes proposed for it in one presentation context."""

UNCOMPRESSED = (syntaxes.EXPLICIT_LITTLE, syntaxes.IMPLICIT_LITTLE)
"""The transfer syntaxes proposed for every instance besides its own, in order of preference."""

CONVERTED_INTO = (*UNCOMPRESSED, syntaxes.EXPLICIT_BIG, syntaxes.DEFLATED_LITTLE)
"""The native transfer syntaxes, in order of preference. All are proposed for a native data set."""


class Sendable(Protocol):
    """An instance to be sent."""

    @property
    def sop_class_uid(self) -> str:
        """Its SOP Class."""

    @property
    def transfer_syntax(self) -> str:
        """The transfer syntax of its stored data set."""


def is_convertible(source: str, target: str) -> bool:
    """Whether an instance in one transfer syntax can be sent in another one, if its pixel data allows it."""
    if source == target or (syntaxes.is_native(source) and syntaxes.is_native(target)):
        return True
    return capabilities.is_convertible(source, target)


# --- what is proposed ---------------------------------------------------------------------------------------------


def proposals(
    instance: Sendable, send_as: tuple[str, ...] = (), last_resort: tuple[str, ...] = ()
) -> tuple[Proposal, ...]:
    """Return the contexts for an instance: one with its transfer syntax, one for each of `send_as`, one uncompressed.

    The last always includes Implicit VR Little Endian (PS3.5 10.1). There are several so that the acceptor accepts the
    stored transfer syntax if it can, whatever it prefers. Those of `last_resort` share a further context.
    """
    return _proposals(instance.sop_class_uid, instance.transfer_syntax, send_as, last_resort)


@lru_cache(maxsize=1024)
def _proposals(
    sop_class_uid: str, stored: str, send_as: tuple[str, ...], last_resort: tuple[str, ...]
) -> tuple[Proposal, ...]:
    def possible(targets: Sequence[str]) -> tuple[str, ...]:
        return tuple(uid for uid in targets if uid != stored and is_convertible(stored, uid))

    others = CONVERTED_INTO if syntaxes.is_native(stored) else UNCOMPRESSED
    together = tuple(uid for uid in others if uid != stored)
    groups = (*((uid,) for uid in (stored, *possible(send_as))), together, possible(last_resort))
    return tuple(dict.fromkeys((sop_class_uid, group) for group in groups if group))


Instance = TypeVar("Instance", bound=Sendable)


@dataclass(frozen=True, slots=True)
class Batch(Generic[Instance]):
    """Instances whose presentation contexts fit on one association."""

    proposals: tuple[Proposal, ...]
    instances: tuple[Instance, ...]


def batches(
    instances: Iterable[Instance], send_as: tuple[str, ...] = (), last_resort: tuple[str, ...] = ()
) -> Iterator[Batch[Instance]]:
    """Divide instances, in order, among associations of at most 128 contexts each (V9 and P16, docs/checklist.md)."""
    proposed: dict[Proposal, None] = {}
    batch: list[Instance] = []
    for instance in instances:
        needed = dict.fromkeys(proposals(instance, send_as, last_resort))
        if len(proposed | needed) > MAX_CONTEXTS:
            yield Batch(tuple(proposed), tuple(batch))
            proposed, batch = {}, []
        proposed |= needed
        batch.append(instance)
    if batch:
        yield Batch(tuple(proposed), tuple(batch))


# --- what is used -------------------------------------------------------------------------------------------------


def preferred(stored: str, send_as: Sequence[str] = ()) -> Iterator[str]:
    """Yield the transfer syntaxes in which an instance may be sent, best first, each once.

    The stored one; those of `send_as`; uncompressed; any other in which no information is lost.
    """
    for target in dict.fromkeys((stored, *send_as, *CONVERTED_INTO, *capabilities.ENCODED)):
        if is_convertible(stored, target):
            yield target


def candidates(instance: Sendable, contexts: Iterable[Context], send_as: Sequence[str] = ()) -> tuple[Context, ...]:
    """Return the accepted contexts in which an instance may be sent, best first.

    The next one is for an instance whose pixel data cannot be converted for the one before.
    """
    usable = {
        each.transfer_syntax: each
        for each in contexts
        if each.abstract_syntax == instance.sop_class_uid and each.as_scu
    }
    return tuple(usable[uid] for uid in preferred(instance.transfer_syntax, send_as) if uid in usable)


def refusal(instance: Sendable, agreement: Agreement) -> str:
    """Return why an instance without a usable context cannot be sent, as a sentence about the peer.

    The part before a semicolon is brief enough for most Error Comments.
    """
    sop_class_uid, contexts = instance.sop_class_uid, agreement.contexts.values()
    accepted = {
        each.transfer_syntax: None for each in contexts if each.abstract_syntax == sop_class_uid and each.as_scu
    }
    if not accepted and any(each.abstract_syntax == sop_class_uid for each in contexts):
        remedy = f'set roles = "lenient" in the [[peers]] block of {agreement.calling_ae_title}'
        return f"no SCP role proposed for {UID(sop_class_uid).name}; if it can receive, {remedy}"
    if not accepted and sop_class_uid not in agreement.refused_syntaxes:
        return f"it does not accept {UID(sop_class_uid).name}"
    sentence = f"it does not accept {UID(instance.transfer_syntax).name}"
    if instance.transfer_syntax in accepted:
        return sentence
    return f"{sentence}; it accepts {' and '.join(UID(uid).name for uid in accepted) or 'nothing else that we offer'}"
