"""Prepares instances for a store: chooses the presentation context, and converts what the peer does not accept."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from pacs.client.instance_data import InstanceData
from pacs.client.sources import Instance, is_image
from pacs.dimse.association.storage_contexts import candidates, is_convertible
from pacs.dimse.upper.user_information import Context
from pacs.errors import NotSupported
from pacs.pixels.capabilities import ENCODED
from pacs.pixels.pool import DecoderPool
from pacs.pixels.target_names import name_of


@dataclass(frozen=True, slots=True)
class Preparation:
    """Prepares instances for an association with these accepted contexts.

    With `send_as`, each is sent in the first of these transfer syntaxes that the peer accepts and that it can be
    converted into, or uncompressed if it has no pixel data. Otherwise it is sent as it is where the peer accepts that.
    """

    contexts: Collection[Context]
    send_as: Sequence[str]
    pool: DecoderPool

    def begin(self, instance: Instance) -> "Outgoing":
        """Prepare an instance and begin its conversion. Raises as `Outgoing`."""
        return Outgoing(instance, self)

    def candidates(self, instance: Instance) -> Iterator[Context]:
        """Yield the contexts to try, best first."""
        if not self.send_as:
            yield from candidates(instance, self.contexts)
            return
        accepted = self._accepted(instance)
        for each in self.send_as:
            if each in accepted and is_convertible(instance.transfer_syntax, each):
                yield accepted[each]
        if not is_image(instance):
            found = candidates(instance, self.contexts)
            yield from (each for each in found if each.transfer_syntax not in ENCODED)

    def refusal(self, instance: Instance) -> str:
        """Return what the peer does not accept, or what is not possible; '' if another reason must be known."""
        accepted, stored = self._accepted(instance), instance.transfer_syntax
        possible = [each for each in self.send_as or (stored,) if is_convertible(stored, each)]
        if not possible:
            return f"{name_of(stored)} is not converted into {' or '.join(map(name_of, self.send_as))}"
        if not accepted:
            return f"The peer does not accept {name_of(instance.sop_class_uid)}"
        refused = [each for each in possible if each not in accepted]
        return f"The peer does not accept {' or '.join(map(name_of, refused))}" if refused else ""

    def _accepted(self, instance: Instance) -> dict[str, Context]:
        """Return the contexts in which the peer accepts the SOP Class of an instance, by transfer syntax."""
        own = [each for each in self.contexts if each.abstract_syntax == instance.sop_class_uid and each.as_scu]
        return {each.transfer_syntax: each for each in own}


class Outgoing:
    """An instance that is ready to be sent: its presentation context, and its data set, whose conversion has begun."""

    context: Context
    """The presentation context, which is certain after `pieces`."""

    def __init__(self, instance: Instance, preparation: Preparation) -> None:
        """Begin with the best context. Raises NotSupported with the reason if there is none, and as `InstanceData`."""
        self._instance = instance
        self._preparation = preparation
        self._candidates = preparation.candidates(instance)
        self._reasons = dict.fromkeys(filter(None, (preparation.refusal(instance),)))
        self._data = self._begin()

    def _begin(self) -> InstanceData:
        """Begin with the next context that the instance can be converted for."""
        while (context := next(self._candidates, None)) is not None:
            self.context = context
            try:
                return InstanceData(self._instance, context.transfer_syntax, self._preparation.pool)
            except NotSupported as error:
                self._note(error)
        raise NotSupported("; ".join(self._reasons))

    def _note(self, error: NotSupported) -> None:
        self._reasons[f"{name_of(self.context.transfer_syntax)}: {error.comment}"] = None

    def pieces(self) -> Iterator[bytes]:
        """Return the pieces of the data set, the first of which has been read. Raises as the constructor.

        What cannot be encoded may become known only with the first frame; then the next context is used.
        """
        while True:
            pieces = iter(self._data)
            try:
                return chain((next(pieces, b""),), pieces)
            except NotSupported as error:
                self._data.close()
                self._note(error)
                self._data = self._begin()

    @property
    def notices(self) -> tuple[str, ...]:
        """One sentence for each removal or change beyond the encoding."""
        return self._data.notices

    @property
    def size_in_memory(self) -> int:
        """The bytes that its data set has in memory at most."""
        return self._data.size_in_memory

    def close(self) -> None:
        """Cancel the conversion, and close the file."""
        self._data.close()
