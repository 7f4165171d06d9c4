"""Old names of modules: an import by an old name works for one release, with a DeprecationWarning."""

import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MOVED = {
    "pacs.audit": "pacs.observability.audit",
    "pacs.buffers": "pacs.support.buffers",
    "pacs.cancellation": "pacs.support.cancellation",
    "pacs.cli.asking": "pacs.cli.query",
    "pacs.cli.bars": "pacs.cli.progress",
    "pacs.cli.calling": "pacs.cli.peer_options",
    "pacs.cli.contents": "pacs.cli.archive",
    "pacs.cli.exits": "pacs.cli.exit_status",
    "pacs.cli.keys": "pacs.cli.matching_keys",
    "pacs.cli.upkeep": "pacs.cli.maintenance",
    "pacs.cli.mismatches": "pacs.cli.peer_hints",
    "pacs.client.choosing": "pacs.client.series.match",
    "pacs.client.committing": "pacs.client.storage_commitment",
    "pacs.client.failing": "pacs.client.status_errors",
    "pacs.client.heads": "pacs.client.receive.uid_peek",
    "pacs.client.images": "pacs.client.series.images",
    "pacs.client.intake": "pacs.client.receive.store_scp",
    "pacs.client.planes": "pacs.client.series.planes",
    "pacs.client.receiver": "pacs.client.receive.receiver",
    "pacs.client.senders": "pacs.client.receive.senders",
    "pacs.client.underway": "pacs.client.retrieve_operation",
    "pacs.client.volumes": "pacs.client.series.volumes",
    "pacs.client.wanted": "pacs.client.missing_instances",
    "pacs.conformance.run": "pacs.conformance.checks",
    "pacs.conformance.run.association": "pacs.conformance.checks.association",
    "pacs.conformance.run.bench": "pacs.conformance.checks.toolkit",
    "pacs.conformance.run.cancelling": "pacs.conformance.checks.cancelling",
    "pacs.conformance.run.committing": "pacs.conformance.checks.commitment",
    "pacs.conformance.run.finding": "pacs.conformance.checks.finding",
    "pacs.conformance.run.getting": "pacs.conformance.checks.getting",
    "pacs.conformance.run.matching": "pacs.conformance.checks.matching",
    "pacs.conformance.run.moving": "pacs.conformance.checks.moving",
    "pacs.conformance.run.negotiation": "pacs.conformance.checks.negotiation",
    "pacs.conformance.run.printing": "pacs.conformance.checks.matrix",
    "pacs.conformance.run.receiver": "pacs.conformance.checks.storage_scp",
    "pacs.conformance.run.specimens": "pacs.conformance.checks.sample_data",
    "pacs.conformance.run.storage": "pacs.conformance.checks.storage",
    "pacs.conformance.run.texts": "pacs.conformance.checks.character_sets",
    "pacs.conformance.run.verdicts": "pacs.conformance.checks.results",
    "pacs.conformance.run.wire": "pacs.conformance.checks.wire",
    "pacs.conformance.words": "pacs.conformance.statement.wording",
    "pacs.config.complaints": "pacs.config.error_messages",
    "pacs.config.peers": "pacs.config.peers_file",
    "pacs.dicom.answer": "pacs.dicom.response_identifier",
    "pacs.dicom.kept": "pacs.dicom.row_elements",
    "pacs.dicom.manner": "pacs.dicom.matching_mode",
    "pacs.dicom.memory": "pacs.dicom.lru_cache",
    "pacs.dicom.pending": "pacs.dicom.response_encoder",
    "pacs.dicom.plain": "pacs.dicom.fast_scan",
    "pacs.dicom.reading": "pacs.dicom.identifier_report",
    "pacs.dicom.sameness": "pacs.dicom.dataset_equality",
    "pacs.dimse.agreement": "pacs.dimse.upper.user_information",
    "pacs.dimse.carriers": "pacs.dimse.scp.destinations",
    "pacs.dimse.command": "pacs.dimse.messages.command",
    "pacs.dimse.contexts": "pacs.dimse.association.storage_contexts",
    "pacs.dimse.errands": "pacs.dimse.association.scp_requests",
    "pacs.dimse.establishment": "pacs.dimse.association.establishment",
    "pacs.dimse.explained": "pacs.dimse.scp.explain_hook",
    "pacs.dimse.faults": "pacs.faults",
    "pacs.dimse.faults.choosing": "pacs.faults.selection",
    "pacs.dimse.faults.interposing": "pacs.faults.interposer",
    "pacs.dimse.faults.line": "pacs.faults.faulty_upper_layer",
    "pacs.dimse.faults.model": "pacs.faults.model",
    "pacs.dimse.faults.negotiating": "pacs.faults.faulty_policy",
    "pacs.dimse.faults.seam": "pacs.dimse.scp.fault_hook",
    "pacs.dimse.faults.services": "pacs.faults.failing_services",
    "pacs.dimse.faults.tampering": "pacs.faults.tampering",
    "pacs.dimse.faults.telling": "pacs.faults.fault_log",
    "pacs.dimse.faults.witness": "pacs.faults.observer",
    "pacs.dimse.handlers": "pacs.dimse.scp.handlers",
    "pacs.dimse.identity": "pacs.dimse.scp.association_access",
    "pacs.dimse.inbox": "pacs.dimse.association.incoming_messages",
    "pacs.dimse.lanes": "pacs.dimse.scp.parallel_associations",
    "pacs.dimse.meanings": "pacs.dicom.status",
    "pacs.dimse.negotiation": "pacs.dimse.server.acceptor_policy",
    "pacs.dimse.operation": "pacs.dimse.scp.operation",
    "pacs.dimse.overhearing": "pacs.recording.sniffer",
    "pacs.dimse.pdus": "pacs.dimse.upper.pdus",
    "pacs.dimse.places": "pacs.dimse.server.association_slots",
    "pacs.dimse.reporting": "pacs.dimse.scp.event_reports",
    "pacs.dimse.retrieving": "pacs.dimse.scp.retrieve_task",
    "pacs.dimse.secure": "pacs.dimse.upper.tls",
    "pacs.dimse.status": "pacs.dimse.messages.status",
    "pacs.dimse.suboperations": "pacs.dimse.scp.store_sender",
    "pacs.dimse.upper_layer": "pacs.dimse.upper.upper_layer",
    "pacs.dimse.waiting": "pacs.dimse.upper.waiting",
    "pacs.dimse.watcher": "pacs.dimse.association.cancel_monitor",
    "pacs.dimse.wire": "pacs.dimse.upper.wire",
    "pacs.files.held": "pacs.files.process_lock",
    "pacs.files.scratch": "pacs.files.buffer_pool",
    "pacs.files.windows": "pacs.files.readers",
    "pacs.folders": "pacs.support.folders",
    "pacs.gathering": "pacs.support.batch_queue",
    "pacs.health": "pacs.observability.health",
    "pacs.index.explaining": "pacs.index.query_plan",
    "pacs.index.fast_insert": "pacs.index.addition",
    "pacs.index.fixed": "pacs.index.compiled_statement",
    "pacs.index.gathering": "pacs.index.group_commit",
    "pacs.index.held": "pacs.index.raw_connections",
    "pacs.index.patterns": "pacs.index.dialects",
    "pacs.index.prepared": "pacs.index.statement_cache",
    "pacs.index.reconciling": "pacs.index.index_diff",
    "pacs.index.siblings": "pacs.index.addition",
    "pacs.index.turns": "pacs.index.write_lock",
    "pacs.index.upkeep": "pacs.index.maintenance",
    "pacs.listening": "pacs.support.sockets",
    "pacs.metrics": "pacs.observability.metrics",
    "pacs.metrics.counters": "pacs.observability.metrics.counters",
    "pacs.metrics.counting": "pacs.observability.metrics.counting",
    "pacs.metrics.exposition": "pacs.observability.metrics.exposition",
    "pacs.notify": "pacs.observability.systemd",
    "pacs.oversight": "pacs.monitoring",
    "pacs.services.adoption": "pacs.services.orphans",
    "pacs.services.arrivals": "pacs.services.stored_file",
    "pacs.services.aside": "pacs.services.scratch_index",
    "pacs.services.derivation": "pacs.services.parent_refresh",
    "pacs.suggestion": "pacs.support.suggestion",
    "pacs.supervisor": "pacs.workers",
    "pacs.tape": "pacs.recording",
    "pacs.tape.datasets": "pacs.recording.datasets",
    "pacs.tape.pseudonyms": "pacs.recording.pseudonyms",
    "pacs.tape.relay": "pacs.recording.relay",
    "pacs.tape.replay": "pacs.recording.replay",
    "pacs.tape.script": "pacs.recording.file_format",
    "pacs.telemetry": "pacs.observability.events pacs.observability.logging",
    "pacs.testing.meant": "pacs.testing.keyword_check",
    "pacs.testing.noting": "pacs.testing.message_log",
    "pacs.testing.storage": "pacs.testing.store_scp",
}
"""The new names by the old one; the contents of `pacs.telemetry` are in two modules."""


class MovedModules:
    """A finder, and loader, of modules by their old names."""

    def find_spec(
        self, name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return a spec for the old name of a module, None for any other name."""
        return ModuleSpec(name, self) if name in MOVED else None  # type: ignore[arg-type]

    def create_module(self, _spec: ModuleSpec) -> None:
        """Let the import system make an empty module, which `exec_module` replaces."""

    def exec_module(self, module: ModuleType) -> None:
        """Import the new module and put it in the place of the old one."""
        old, new = module.__name__, MOVED[module.__name__].split()
        warnings.warn(f"{old} has moved to {' and '.join(new)}", DeprecationWarning, stacklevel=2)
        modules = [import_module(each) for each in new]
        for each in modules[1:]:
            vars(module).update(vars(modules[0]) | vars(each))
        if len(modules) == 1:
            sys.modules[old] = modules[0]


def moved_attributes(package: str, new: str) -> Callable[[str], Any]:
    """Return `__getattr__` for a package with the name of a module whose contents have moved to module `new`."""

    def getattribute(name: str) -> Any:
        if name.startswith("__") or not hasattr(import_module(new), name):
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        warnings.warn(f"{package}.{name} has moved to {new}", DeprecationWarning, stacklevel=2)
        return getattr(import_module(new), name)

    return getattribute
