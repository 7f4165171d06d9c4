"""What the checks work with: the server, what it agreed to, the specimens, and our receiver."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydicom import Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword

from pacs.conformance.checks import wire
from pacs.conformance.checks.association import Association, Peer, Responses, Store
from pacs.conformance.checks.receiver import Arrival, Behaviour, Receiver
from pacs.conformance.checks.specimens import CT, LABELS, MR, SC, Specimen, Specimens
from pacs.conformance.checks.verdicts import NotOffered, Verdict, cannot, deviates, judge

PATIENT_ROOT, STUDY_ROOT, PATIENT_STUDY_ONLY = (f"1.2.840.10008.5.1.4.1.2.{number}." for number in (1, 2, 3))
FIND, MOVE, GET = "1", "2", "3"
STUDY_FIND, STUDY_MOVE, STUDY_GET = (STUDY_ROOT + each for each in (FIND, MOVE, GET))
PATIENT_FIND = PATIENT_ROOT + FIND

UNIQUE = {
    "PATIENT": "PatientID",
    "STUDY": "StudyInstanceUID",
    "SERIES": "SeriesInstanceUID",
    "IMAGE": "SOPInstanceUID",
}
"""The unique key of each level."""

ARRIVES = 2.0
"""Seconds an instance may take to arrive, behind the final response."""

TAKEN = (0, 0xB000, 0xB006, 0xB007)
"""The statuses of an instance that was stored."""

Key = str | bytes | Sequence[Mapping[str, "Key"]]
Keys = Mapping[str, Key]


def identifier(keys: Keys, *, level: str | None = None) -> bytes:
    """An Identifier in Implicit VR Little Endian, its values as they are: a check may want what no library would write.

    Keys are keywords, or tags in hexadecimal; a sequence of mappings is a sequence of items. Text beyond ASCII has to
    be bytes already.
    """
    given = dict(keys) | ({} if level is None else {"QueryRetrieveLevel": level})
    return b"".join(_element(tag, key, given[key]) for tag, key in sorted((_tag(key), key) for key in given))


def _tag(key: str) -> int:
    found = tag_for_keyword(key)
    return int(key, 16) if found is None else found


def _element(tag: int, key: str, value: Key) -> bytes:
    if isinstance(value, str):
        value = value.encode("ascii")
    if not isinstance(value, bytes):
        value = b"".join(struct.pack("<HHL", 0xFFFE, 0xE000, len(each)) + each for each in map(identifier, value))
    elif len(value) % 2:
        value += b"\0" if tag_for_keyword(key) and dictionary_VR(tag) == "UI" else b" "
    return struct.pack("<HHL", tag >> 16, tag & 0xFFFF, len(value)) + value


class Match:
    """The Identifier of a response."""

    def __init__(self, message: wire.DimseMessage) -> None:
        self.status = message.status
        self.dataset: Dataset = wire.decoded(message.data)

    def __contains__(self, keyword: str) -> bool:
        return _tag(keyword) in self.dataset

    def text(self, keyword: str) -> str:
        """The value as it came, without padding; '' when it is not there."""
        if keyword not in self:
            return ""
        raw = self.dataset.get_item(_tag(keyword)).value
        return wire.without_padding(raw) if isinstance(raw, bytes) else str(raw or "").strip()

    def values(self, keyword: str) -> list[str]:
        """The single values."""
        found = self.text(keyword)
        return [each.strip() for each in found.split("\\")] if found else []


@dataclass
class Found:
    """The responses to a C-FIND; `ours` are the matches that are of the specimens."""

    responses: Responses
    ours: list[Match]
    specimens: Specimens

    @property
    def status(self) -> int:
        """The final status."""
        return self.responses.status

    @property
    def studies(self) -> set[str]:
        """The labels of the studies that were found."""
        return {self.specimens.label(each.text("StudyInstanceUID")) for each in self.ours}

    def judge(self, *due: str, maybe: str = "") -> Verdict:
        """Whether exactly the studies with these labels were found; `maybe` is one about which nothing is said."""
        if self.status:
            return deviates(self.ending)
        found = self.studies - {maybe}
        return judge(
            found == set(due), f"finds {_listed(found)}" + ("" if found == set(due) else f"; due {_listed(due)}")
        )

    @property
    def ending(self) -> str:
        """The final status in words."""
        return ended(self.responses.final)


def ended(message: wire.DimseMessage) -> str:
    """A status, and what the server said with it."""
    comment = message.text(wire.ERROR_COMMENT)
    return f"{message.status:04X}" + (f' "{comment}"' if comment else "")


def _listed(labels: Iterable[str]) -> str:
    found = sorted(each for each in labels if each)
    return f"{'study' if len(found) == 1 else 'studies'} {', '.join(found)}" if found else "no study"


@dataclass
class Moved:
    """The responses to a C-MOVE or C-GET, and what arrived."""

    responses: Responses
    arrived: list[Arrival]

    @property
    def status(self) -> int:
        """The final status."""
        return self.responses.status

    @property
    def counts(self) -> tuple[int | None, int | None, int | None]:
        """Completed, failed and warning of the final response."""
        final = self.responses.final
        return final.number(wire.COMPLETED), final.number(wire.FAILED), final.number(wire.WARNING)

    @property
    def failed_uids(self) -> set[str]:
        """The Failed SOP Instance UID List (0008,0058) of the final response."""
        if self.responses.final.data is None:
            return set()
        return set(Match(self.responses.final).values("FailedSOPInstanceUIDList"))

    @property
    def seen(self) -> str:
        """The end in words."""
        counts = "/".join("-" if each is None else str(each) for each in self.counts)
        return f"{ended(self.responses.final)}, completed/failed/warning {counts}, {len(self.arrived)} arrived"


@dataclass
class Bench:
    """A server under examination."""

    peer: Peer
    specimens: Specimens
    receiver: Receiver | None = None
    stored: dict[str, int] = field(default_factory=dict)
    """The status with which each specimen was taken, by SOP Instance UID."""
    obstacle: str | None = None
    """Why nothing can be moved to our receiver, '' where it can; None while that is not known."""

    # --- what checks need ------------------------------------------------------------------------------------------

    def need(self, *labels: str) -> None:
        """The instances of these studies must have been taken. Raises CouldNotAsk."""
        for label in labels:
            if any(self.stored.get(each.uid) not in TAKEN for each in self.specimens.study(label)):
                cannot(f"it has not taken study {label} of the specimens")

    def destination(self) -> Receiver:
        """Our receiver, where the server knows it. Raises CouldNotAsk, NotOffered."""
        if self.receiver is None:
            cannot("there is no receiver")
        if self.obstacle is None:
            self.need("4")
            self.obstacle = self._obstacle(self.receiver)
        if self.obstacle:
            cannot(self.obstacle)
        return self.receiver

    def _obstacle(self, receiver: Receiver) -> str:
        """Why nothing can be moved to our receiver; '' where an instance arrives."""
        with receiver.behaving(Behaviour()) as arrived:
            keys = {"StudyInstanceUID": self.specimens.uid("4")}
            final = self.send_move(keys, "STUDY", receiver.ae_title).final
            if receiver.wait_for(arrived, 1, ARRIVES):
                return ""
        if final.status == 0xA801:
            return f"it does not know our AE title: {listing(receiver)}"
        return f"a C-MOVE to us ends with {ended(final)}, and nothing arrives: {listing(receiver)}"

    # --- operations ------------------------------------------------------------------------------------------------

    def find(
        self, level: str, keys: Keys, *, model: str = STUDY_FIND, extended: bytes = b"", says: str | None = None
    ) -> Found:
        """A C-FIND on an association of its own; `says` is the level as it is written. Raises NotOffered, Ended ..."""
        asked = {UNIQUE[level]: "", **keys}
        with self.peer.associate([model], extended={model: extended} if extended else {}) as association:
            if extended and not association.answer.extended.get(model, b"").strip(b"\0"):
                raise NotOffered("it does not agree to that extended negotiation")
            return self.ask(association, identifier(asked, level=says or level), level, model)

    def ask(self, association: Association, data: bytes, level: str, model: str = STUDY_FIND) -> Found:
        """A C-FIND with an Identifier that is there already."""
        return self.found(association.ask(wire.C_FIND, model, data), level)

    def found(self, responses: Responses, level: str) -> Found:
        """The responses to a C-FIND at a level, read."""
        start = self.specimens.prefix if level == "PATIENT" else self.specimens.root
        matches = [Match(each) for each in responses.pending]
        ours = [each for each in matches if each.text(UNIQUE[level]).startswith(start)]
        if level == "STUDY":  # what other checks store is none of these
            ours = [each for each in ours if self.specimens.label(each.text(UNIQUE[level])) in LABELS]
        return Found(responses, ours, self.specimens)

    def of_patient(self, **keys: Key) -> Found:
        """A C-FIND for studies of patient 1 (studies 1 to 4) that match further keys."""
        self.need("1", "2", "3", "4")
        return self.find("STUDY", {"PatientID": self.specimens.patient_id("1"), **keys})

    def send_move(self, keys: Keys, level: str, destination: str, priority: int = 0) -> Responses:
        """A C-MOVE on an association of its own."""
        with self.peer.associate([STUDY_MOVE]) as association:
            more: dict[int, wire.Value] = {wire.DESTINATION: destination, wire.PRIORITY: priority}
            return association.ask(wire.C_MOVE, STUDY_MOVE, identifier(keys, level=level), more)

    def move(self, label: str, behaviour: Behaviour | None = None, **options: int) -> Moved:
        """A C-MOVE of a study to our receiver, which behaves like this. Raises CouldNotAsk, NotOffered, Ended ..."""
        receiver = self.destination()
        self.need(label)
        with receiver.behaving(behaviour or Behaviour()) as arrived:
            keys = {"StudyInstanceUID": self.specimens.uid(label)}
            responses = self.send_move(keys, "STUDY", receiver.ae_title, **options)
            receiver.wait_for(arrived, responses.final.number(wire.COMPLETED) or 0, ARRIVES)
            return Moved(responses, list(arrived))

    def getting(
        self,
        classes: Sequence[str] = (CT, MR, SC),
        syntaxes: Sequence[str] = (wire.EXPLICIT, wire.IMPLICIT),
        **options: Any,
    ) -> Association:
        """An association for C-GET on which we are SCP of these Storage SOP Classes."""
        contexts = [(STUDY_GET, (wire.IMPLICIT,)), *((each, tuple(syntaxes)) for each in classes)]
        return self.peer.associate(contexts, **{"roles": dict.fromkeys(classes, (1, 1))} | options)

    def get(self, association: Association, keys: Keys, level: str = "STUDY", store: Store | None = None) -> Moved:
        """A C-GET on an association; `store` answers the sub-operations."""
        data = identifier(keys, level=level)
        message_id, pdus = association.request(wire.C_GET, STUDY_GET, data)
        association.send(pdus)
        responses = association.responses(message_id, store)
        arrived = [Arrival(each, association.syntax(each.context), "") for each in responses.stored]
        return Moved(responses, arrived)

    def get_study(self, label: str, store: Store | None = None, **options: Sequence[str]) -> Moved:
        """A C-GET of a study on an association of its own. Raises CouldNotAsk, NotOffered, Ended ..."""
        self.need(label)
        with self.getting(**options) as association:
            return self.get(association, {"StudyInstanceUID": self.specimens.uid(label)}, store=store)

    def store(
        self, specimen: Specimen, abstract: str = "", more: Mapping[int, wire.Value] | None = None
    ) -> wire.DimseMessage:
        """A C-STORE on an association of its own: the response; `abstract` is the context it is sent on."""
        with self.peer.associate([(abstract or specimen.sop_class, (specimen.syntax,))]) as association:
            return store(association, specimen, abstract, more)


def store(
    association: Association, specimen: Specimen, abstract: str = "", more: Mapping[int, wire.Value] | None = None
) -> wire.DimseMessage:
    """A C-STORE on an association that has a context for it: the response. Raises NotOffered, Ended."""
    says = {wire.SOP_INSTANCE: specimen.uid, wire.SOP_CLASS: specimen.sop_class, **(more or {})}
    chosen = abstract or specimen.sop_class
    return association.ask(wire.C_STORE, chosen, specimen.encode(), says).final


def listing(receiver: Receiver) -> str:
    """How our receiver is listed as a move destination."""
    words = f"{receiver.ae_title} {receiver.host} {receiver.port}"
    return f"list {words} there (on this archive: pacs peers add {words})"
