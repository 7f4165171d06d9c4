"""Prepares instances for a store: chooses the presentation context, and converts what the peer does not accept."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from pacs.client.instance_data import InstanceData
from pacs.client.sources import Instance
from pacs.dimse.association.storage_contexts import candidates
from pacs.dimse.upper.user_information import Context
from pacs.errors import NotSupported
from pacs.pixels.pool import DecoderPool
from pacs.pixels.target_names import name_of


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An instance that can be sent: its presentation context, and its data set."""

    context: Context
    data: InstanceData

    @property
    def size_in_memory(self) -> int:
        """The bytes that its data set has in memory at most."""
        return self.data.size_in_memory

    def close(self) -> None:
        """Cancel its conversion."""
        self.data.close()


@dataclass(frozen=True, slots=True)
class Preparation:
    """Prepares instances for an association with these accepted contexts.

    With `send_as`, each is sent in the first of these transfer syntaxes that the peer accepts and that it can be
    converted into. Otherwise it is sent as it is where the peer accepts that.
    """

    contexts: Collection[Context]
    send_as: Sequence[str]
    pool: DecoderPool

    def begin(self, instance: Instance) -> Outgoing:
        """Prepare an instance and begin its conversion. Raises NotSupported with the reason, and as `InstanceData`."""
        reasons = dict[str, None]()
        for context in self._candidates(instance):
            try:
                return Outgoing(context, InstanceData(instance, context.transfer_syntax, self.pool))
            except NotSupported as error:
                reasons[error.comment] = None
        raise NotSupported("; ".join((*self._refusal(instance), *reasons)))

    def _candidates(self, instance: Instance) -> Iterable[Context]:
        if not self.send_as:
            return candidates(instance, self.contexts)
        accepted = self._accepted(instance)
        return [accepted[uid] for uid in self.send_as if uid in accepted]

    def _accepted(self, instance: Instance) -> dict[str, Context]:
        """Return the contexts in which the peer accepts the SOP Class of an instance, by transfer syntax."""
        own = [each for each in self.contexts if each.abstract_syntax == instance.sop_class_uid and each.as_scu]
        return {each.transfer_syntax: each for each in own}

    def _refusal(self, instance: Instance) -> Iterable[str]:
        """Yield what the peer does not accept, if that is a reason why an instance is not sent."""
        accepted = self._accepted(instance)
        refused = [each for each in self.send_as or (instance.transfer_syntax,) if each not in accepted]
        if not accepted:
            yield f"The peer does not accept {name_of(instance.sop_class_uid)}"
        elif refused:
            yield f"The peer does not accept {' or '.join(map(name_of, refused))}"
