"""Checks of storage commitment (PS3.4 Annex J)."""

import time
from collections.abc import Sequence

from pydicom import Dataset

from pacs.conformance.checks import wire
from pacs.conformance.checks.association import ClientAssociation, NoResponse
from pacs.conformance.checks.results import CheckResult, Checks, free, impossible, judge
from pacs.conformance.checks.sample_data import SampleInstance
from pacs.conformance.checks.storage_scp import STORAGE_COMMITMENT, SCPBehaviour
from pacs.conformance.checks.toolkit import Toolkit, status_text

CHECKS = Checks("commitment")
check = CHECKS.check

INSTANCE = "1.2.840.10008.1.20.1.1"


@check("J1", "PS3.4 J.3.3")
def all_stored(tools: Toolkit) -> CheckResult:
    """Does the server report stored instances as committed?"""
    tools.need("1")
    asked = tools.samples.study("1")
    event, report = _request_report(tools, 1, asked)
    return judge(
        event == 1 and _uids(report, "ReferencedSOPSequence") == {each.uid for each in asked},
        _report_text(event, report),
    )


@check("J2", "PS3.4 J.3.3")
def one_unknown(tools: Toolkit) -> CheckResult:
    """Does the server report an unknown instance as failed, with the reason, and the others as committed?"""
    tools.need("4")
    unknown = tools.samples.probe(999)
    event, report = _request_report(tools, 2, [*tools.samples.study("4"), unknown])
    failed = list(report.get("FailedSOPSequence", []))
    reasons = ", ".join(f"{each.get('FailureReason', 0):04X}" for each in failed)
    is_conformant = event == 2 and _uids(report, "FailedSOPSequence") == {unknown.uid} and reasons == "0112"
    is_conformant = is_conformant and _uids(report, "ReferencedSOPSequence") == {
        each.uid for each in tools.samples.study("4")
    }
    return judge(is_conformant, f"{_report_text(event, report)}, reason {reasons or 'not given'}")


@check("J3", "PS3.4 J.3.2")
def no_transaction(tools: Toolkit) -> CheckResult:
    """Does the server refuse a request without Transaction UID?"""
    with tools.server.associate([STORAGE_COMMITMENT]) as association:
        request = _request(tools, 3, tools.samples.study("4"))
        del request.TransactionUID
        final = _ask(association, request)
    return free("0000") if final.status == 0 else judge(final.status < 0x0300, status_text(final))


def _request(tools: Toolkit, place: int, samples: Sequence[SampleInstance]) -> Dataset:
    request = Dataset()
    request.TransactionUID = tools.samples.uid(8888, place, time.time_ns())
    request.ReferencedSOPSequence = []
    for each in samples:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = each.sop_class, each.uid
        request.ReferencedSOPSequence.append(item)
    return request


def _ask(association: ClientAssociation, request: Dataset) -> wire.DimseMessage:
    data = wire.encoded(request)
    more: dict[int, wire.Value] = {wire.REQUESTED_SOP_INSTANCE: INSTANCE, wire.ACTION_TYPE: 1}
    message_id, pdus = association.request(wire.N_ACTION, STORAGE_COMMITMENT, data, more)
    association.send(pdus)
    return association.responses(message_id).final


def _request_report(tools: Toolkit, place: int, samples: Sequence[SampleInstance]) -> tuple[int, Dataset]:
    """Return event type and data set of the report, from any association. Raises CheckImpossible."""
    if tools.storage_scp is None:
        return _report_on_same_association(tools, _request(tools, place, samples))
    with tools.storage_scp.behaving(SCPBehaviour()) as received:
        request = _request(tools, place, samples)
        try:
            return _report_on_same_association(tools, request)
        except NoResponse:
            tools.storage_scp.wait_for(received, 1, tools.server.timeout)
        reports = [each for each in received if each.message.field == wire.N_EVENT_REPORT]
    if not reports:
        impossible(
            f"no report within {tools.server.timeout:g} s, neither to {tools.storage_scp.ae_title} nor on the "
            "association of the request"
        )
    return _checked_report(reports[0].message, wire.decoded(reports[0].message.data, reports[0].syntax), request)


def _report_on_same_association(tools: Toolkit, request: Dataset) -> tuple[int, Dataset]:
    with tools.server.associate([STORAGE_COMMITMENT]) as association:
        final = _ask(association, request)
        if final.status:
            impossible(f"the request is refused, with {status_text(final)}")
        association.connection.timeout = min(2.0, tools.server.timeout)
        try:
            report = association.receive()
        except NoResponse:
            association.release()
            raise
        association.respond(report, 0)
        return _checked_report(report, wire.decoded(report.data), request)


def _checked_report(report: wire.DimseMessage, data: Dataset, request: Dataset) -> tuple[int, Dataset]:
    if data.get("TransactionUID") != request.TransactionUID:
        impossible("the report is about another transaction")
    return report.number(wire.EVENT_TYPE) or 0, data


def _uids(report: Dataset, keyword: str) -> set[str]:
    return {str(each.get("ReferencedSOPInstanceUID", "")) for each in report.get(keyword, [])}


def _report_text(event: int, report: Dataset) -> str:
    counts = (len(report.get(each, [])) for each in ("ReferencedSOPSequence", "FailedSOPSequence"))
    return "event type {}, {} committed and {} failed".format(event, *counts)
