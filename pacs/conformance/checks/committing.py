"""Storage commitment (PS3.4 Annex J)."""

import time
from collections.abc import Sequence

from pydicom import Dataset

from pacs.conformance.checks import wire
from pacs.conformance.checks.association import Association, Ended
from pacs.conformance.checks.bench import Bench, ended
from pacs.conformance.checks.receiver import COMMITMENT, Behaviour
from pacs.conformance.checks.specimens import Specimen
from pacs.conformance.checks.verdicts import Checks, Verdict, cannot, free, judge

CHECKS = Checks("commitment")
check = CHECKS.check

INSTANCE = "1.2.840.10008.1.20.1.1"


@check("J1", "PS3.4 J.3.3")
def all_there(bench: Bench) -> Verdict:
    """Does the server report stored instances as committed?"""
    bench.need("1")
    asked = bench.specimens.study("1")
    event, report = _reported(bench, 1, asked)
    return judge(
        event == 1 and _uids(report, "ReferencedSOPSequence") == {each.uid for each in asked}, _said(event, report)
    )


@check("J2", "PS3.4 J.3.3")
def one_missing(bench: Bench) -> Verdict:
    """Does the server report an unknown instance as failed, with the reason, and the others as committed?"""
    bench.need("4")
    unknown = bench.specimens.probe(999)
    event, report = _reported(bench, 2, [*bench.specimens.study("4"), unknown])
    failed = list(report.get("FailedSOPSequence", []))
    reasons = ", ".join(f"{each.get('FailureReason', 0):04X}" for each in failed)
    well = event == 2 and _uids(report, "FailedSOPSequence") == {unknown.uid} and reasons == "0112"
    well = well and _uids(report, "ReferencedSOPSequence") == {each.uid for each in bench.specimens.study("4")}
    return judge(well, f"{_said(event, report)}, reason {reasons or 'not given'}")


@check("J3", "PS3.4 J.3.2")
def no_transaction(bench: Bench) -> Verdict:
    """Does the server refuse a request without Transaction UID?"""
    with bench.peer.associate([COMMITMENT]) as association:
        request = _request(bench, 3, bench.specimens.study("4"))
        del request.TransactionUID
        final = _ask(association, request)
    return free("0000") if final.status == 0 else judge(final.status < 0x0300, ended(final))


def _request(bench: Bench, place: int, specimens: Sequence[Specimen]) -> Dataset:
    request = Dataset()
    request.TransactionUID = bench.specimens.uid(8888, place, time.time_ns())
    request.ReferencedSOPSequence = []
    for each in specimens:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = each.sop_class, each.uid
        request.ReferencedSOPSequence.append(item)
    return request


def _ask(association: Association, request: Dataset) -> wire.Message:
    data = wire.encoded(request)
    more: dict[int, wire.Value] = {wire.REQUESTED_SOP_INSTANCE: INSTANCE, wire.ACTION_TYPE: 1}
    message_id, pdus = association.request(wire.N_ACTION, COMMITMENT, data, more)
    association.send(pdus)
    return association.responses(message_id).final


def _reported(bench: Bench, place: int, specimens: Sequence[Specimen]) -> tuple[int, Dataset]:
    """The type and data set of the report on a request, wherever it comes. Raises CouldNotAsk."""
    if bench.receiver is None:
        return _on_same(bench, _request(bench, place, specimens))
    with bench.receiver.behaving(Behaviour()) as arrived:
        request = _request(bench, place, specimens)
        try:
            return _on_same(bench, request)
        except Ended:
            bench.receiver.wait_for(arrived, 1, bench.peer.patience)
        reports = [each for each in arrived if each.message.field == wire.N_EVENT_REPORT]
    if not reports:
        cannot(
            f"no report within {bench.peer.patience:g} s, neither to {bench.receiver.ae_title} nor where it was asked"
        )
    return _of(reports[0].message, wire.decoded(reports[0].message.data, reports[0].syntax), request)


def _on_same(bench: Bench, request: Dataset) -> tuple[int, Dataset]:
    with bench.peer.associate([COMMITMENT]) as association:
        final = _ask(association, request)
        if final.status:
            cannot(f"the request is refused, with {ended(final)}")
        association.line.patience = min(2.0, bench.peer.patience)
        try:
            report = association.receive()
        except Ended:
            association.release()
            raise
        association.answer_to(report, 0)
        return _of(report, wire.decoded(report.data), request)


def _of(report: wire.Message, data: Dataset, request: Dataset) -> tuple[int, Dataset]:
    if data.get("TransactionUID") != request.TransactionUID:
        cannot("a report on another transaction came")
    return report.number(wire.EVENT_TYPE) or 0, data


def _uids(report: Dataset, keyword: str) -> set[str]:
    return {str(each.get("ReferencedSOPInstanceUID", "")) for each in report.get(keyword, [])}


def _said(event: int, report: Dataset) -> str:
    counts = (len(report.get(each, [])) for each in ("ReferencedSOPSequence", "FailedSOPSequence"))
    return "event type {}, {} committed and {} failed".format(event, *counts)
