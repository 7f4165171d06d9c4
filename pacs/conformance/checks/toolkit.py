"""The operations that the checks use on the server, the samples and our storage SCP."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydicom import Dataset
from pydicom.datadict import dictionary_VR, tag_for_keyword

from pacs.conformance.checks import wire
from pacs.conformance.checks.association import CheckedServer, ClientAssociation, Responses, StoreHandler
from pacs.conformance.checks.results import CheckResult, NotOffered, deviates, impossible, judge
from pacs.conformance.checks.sample_data import CT, LABELS, MR, SC, SampleData, SampleInstance
from pacs.conformance.checks.storage_scp import ReceivedMessage, SampleReceiver, SCPBehaviour

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
"""Seconds to wait for instances after the final response of a retrieve."""

STORED = (0, 0xB000, 0xB006, 0xB007)
"""The statuses of an instance that was stored."""

Key = str | bytes | Sequence[Mapping[str, "Key"]]
Keys = Mapping[str, Key]


def identifier(keys: Keys, *, level: str | None = None) -> bytes:
    """Return an Identifier in Implicit VR Little Endian; values are written as given, even invalid ones.

    Keys are keywords, or tags in hexadecimal; a sequence of mappings is a sequence of items. Text beyond ASCII must be
    given as bytes.
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


class ResponseIdentifier:
    """The Identifier of a response."""

    def __init__(self, message: wire.DimseMessage) -> None:
        self.status = message.status
        self.dataset: Dataset = message.dataset()

    def __contains__(self, keyword: str) -> bool:
        return _tag(keyword) in self.dataset

    def text(self, keyword: str) -> str:
        """Return the received value without padding, '' if it is absent."""
        if keyword not in self:
            return ""
        raw = self.dataset.get_item(_tag(keyword)).value
        return wire.without_padding(raw) if isinstance(raw, bytes) else str(raw or "").strip()

    def values(self, keyword: str) -> list[str]:
        """Return the single values of an attribute."""
        found = self.text(keyword)
        return [each.strip() for each in found.split("\\")] if found else []


@dataclass
class FindResult:
    """The responses to a C-FIND; `matches` are those that belong to the samples."""

    responses: Responses
    matches: list[ResponseIdentifier]
    samples: SampleData

    @property
    def status(self) -> int:
        """The final status."""
        return self.responses.status

    @property
    def status_text(self) -> str:
        """The final status in words."""
        return status_text(self.responses.final)

    @property
    def studies(self) -> set[str]:
        """The labels of the studies that were found."""
        return {self.samples.label(each.text("StudyInstanceUID")) for each in self.matches}

    def judge(self, *due: str, maybe: str = "") -> CheckResult:
        """Check that exactly the studies with these labels were found; the study `maybe` may be found or not."""
        if self.status:
            return deviates(self.status_text)
        found = self.studies - {maybe}
        return judge(
            found == set(due), f"finds {_listed(found)}" + ("" if found == set(due) else f"; due {_listed(due)}")
        )


def status_text(message: wire.DimseMessage) -> str:
    """Return the status of a response and its Error Comment."""
    comment = message.text(wire.ERROR_COMMENT)
    return f"{message.status:04X}" + (f' "{comment}"' if comment else "")


def _listed(labels: Iterable[str]) -> str:
    found = sorted(each for each in labels if each)
    return f"{'study' if len(found) == 1 else 'studies'} {', '.join(found)}" if found else "no study"


@dataclass
class RetrieveResult:
    """The responses to a C-MOVE or C-GET, and the received instances."""

    responses: Responses
    received: list[ReceivedMessage]

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
        return set(ResponseIdentifier(self.responses.final).values("FailedSOPInstanceUIDList"))

    @property
    def seen(self) -> str:
        """The final response in words."""
        counts = "/".join("-" if each is None else str(each) for each in self.counts)
        return f"{status_text(self.responses.final)}, completed/failed/warning {counts}, {len(self.received)} received"


@dataclass
class Toolkit:
    """A server under test, and the operations on it. Each operation uses an association of its own."""

    server: CheckedServer
    samples: SampleData
    storage_scp: SampleReceiver | None = None
    stored: dict[str, int] = field(default_factory=dict)
    """The status of each stored sample by SOP Instance UID."""
    obstacle: str | None = None
    """Why nothing can be moved to our storage SCP, '' if it works; None before it was tried."""

    # --- preconditions ---------------------------------------------------------------------------------------------

    def need(self, *labels: str) -> None:
        """Require that the samples of these studies were stored. Raises CheckImpossible."""
        for label in labels:
            if any(self.stored.get(each.uid) not in STORED for each in self.samples.study(label)):
                impossible(f"it has not stored study {label} of the samples")

    def destination(self) -> SampleReceiver:
        """Return our storage SCP if the server can move to it. Raises CheckImpossible, NotOffered."""
        if self.storage_scp is None:
            impossible("there is no receiver")
        if self.obstacle is None:
            self.need("4")
            self.obstacle = self._obstacle(self.storage_scp)
        if self.obstacle:
            impossible(self.obstacle)
        return self.storage_scp

    def _obstacle(self, scp: SampleReceiver) -> str:
        with scp.behaving(SCPBehaviour()) as received:
            keys = {"StudyInstanceUID": self.samples.uid("4")}
            final = self.send_move(keys, "STUDY", scp.ae_title).final
            if scp.wait_for(received, 1, ARRIVES):
                return ""
        if final.status == 0xA801:
            return f"it does not know our AE title: {how_to_list(scp)}"
        return f"a C-MOVE to us ends with {status_text(final)}, and nothing is received: {how_to_list(scp)}"

    # --- operations ------------------------------------------------------------------------------------------------

    def find(
        self, level: str, keys: Keys, *, model: str = STUDY_FIND, extended: bytes = b"", written: str | None = None
    ) -> FindResult:
        """Perform a C-FIND; `written` is the level as it is sent. Raises NotOffered, NoResponse and others."""
        keys = {UNIQUE[level]: "", **keys}
        with self.server.associate([model], extended={model: extended} if extended else {}) as association:
            if extended and not association.accept.extended.get(model, b"").strip(b"\0"):
                raise NotOffered("it does not accept that extended negotiation")
            return self.find_on(association, identifier(keys, level=written or level), level, model)

    def find_on(self, association: ClientAssociation, data: bytes, level: str, model: str = STUDY_FIND) -> FindResult:
        """Perform a C-FIND with an encoded Identifier on an open association."""
        return self.find_result(association.perform(wire.C_FIND, model, data), level)

    def find_result(self, responses: Responses, level: str) -> FindResult:
        """Return the responses to a C-FIND, decoded."""
        start = self.samples.prefix if level == "PATIENT" else self.samples.root
        found = [ResponseIdentifier(each) for each in responses.pending]
        matches = [each for each in found if each.text(UNIQUE[level]).startswith(start)]
        if level == "STUDY":  # without the studies that other checks store
            matches = [each for each in matches if self.samples.label(each.text(UNIQUE[level])) in LABELS]
        return FindResult(responses, matches, self.samples)

    def find_studies(self, **keys: Key) -> FindResult:
        """Perform a C-FIND for studies of patient 1 (studies 1 to 4) with further keys."""
        self.need("1", "2", "3", "4")
        return self.find("STUDY", {"PatientID": self.samples.patient_id("1"), **keys})

    def send_move(self, keys: Keys, level: str, destination: str, priority: int = 0) -> Responses:
        """Perform a C-MOVE."""
        with self.server.associate([STUDY_MOVE]) as association:
            more: dict[int, wire.Value] = {wire.DESTINATION: destination, wire.PRIORITY: priority}
            return association.perform(wire.C_MOVE, STUDY_MOVE, identifier(keys, level=level), more)

    def move(self, label: str, behaviour: SCPBehaviour | None = None, **options: int) -> RetrieveResult:
        """Move a study to our storage SCP. Raises CheckImpossible, NotOffered, NoResponse and others."""
        scp = self.destination()
        self.need(label)
        with scp.behaving(behaviour or SCPBehaviour()) as received:
            keys = {"StudyInstanceUID": self.samples.uid(label)}
            responses = self.send_move(keys, "STUDY", scp.ae_title, **options)
            scp.wait_for(received, responses.final.number(wire.COMPLETED) or 0, ARRIVES)
            return RetrieveResult(responses, list(received))

    def associate_for_get(
        self,
        classes: Sequence[str] = (CT, MR, SC),
        syntaxes: Sequence[str] = (wire.EXPLICIT, wire.IMPLICIT),
        **options: Any,
    ) -> ClientAssociation:
        """Associate for C-GET, with the SCP role of these Storage SOP Classes."""
        contexts = [(STUDY_GET, (wire.IMPLICIT,)), *((each, tuple(syntaxes)) for each in classes)]
        return self.server.associate(contexts, **{"roles": dict.fromkeys(classes, (1, 1))} | options)

    def get(
        self, association: ClientAssociation, keys: Keys, level: str = "STUDY", store: StoreHandler | None = None
    ) -> RetrieveResult:
        """Perform a C-GET on an open association; `store` handles the sub-operations."""
        message_id, pdus = association.request(wire.C_GET, STUDY_GET, identifier(keys, level=level))
        association.send(pdus)
        responses = association.responses(message_id, store)
        syntaxes = association.accept.results
        received = [ReceivedMessage(each, syntaxes[each.context][1], "") for each in responses.stored]
        return RetrieveResult(responses, received)

    def get_study(self, label: str, store: StoreHandler | None = None, **options: Sequence[str]) -> RetrieveResult:
        """Perform a C-GET of a study. Raises CheckImpossible, NotOffered, NoResponse and others."""
        self.need(label)
        with self.associate_for_get(**options) as association:
            return self.get(association, {"StudyInstanceUID": self.samples.uid(label)}, store=store)

    def store(
        self, instance: SampleInstance, abstract: str = "", more: Mapping[int, wire.Value] | None = None
    ) -> wire.DimseMessage:
        """Perform a C-STORE and return the response; `abstract` is that of its presentation context."""
        with self.server.associate([(abstract or instance.sop_class, (instance.syntax,))]) as association:
            return store(association, instance, abstract, more)


def store(
    association: ClientAssociation,
    instance: SampleInstance,
    abstract: str = "",
    more: Mapping[int, wire.Value] | None = None,
) -> wire.DimseMessage:
    """Perform a C-STORE on an open association and return the response. Raises NotOffered, NoResponse."""
    elements = {wire.SOP_INSTANCE: instance.uid, wire.SOP_CLASS: instance.sop_class, **(more or {})}
    return association.perform(wire.C_STORE, abstract or instance.sop_class, instance.encode(), elements).final


def how_to_list(scp: SampleReceiver) -> str:
    """Return what the operator must do so that the server knows our storage SCP as a move destination."""
    words = f"{scp.ae_title} {scp.host} {scp.port}"
    return f"list {words} there (on this archive: pacs peers add {words})"
