"""Renders the DICOM conformance statement in Markdown: the template `statement.md` with the tables of the code.

SOP Classes, transfer syntaxes, keys, statuses, limits and negotiation come from the tables that the server uses, so
that the statement cannot differ from it. `wording` has the texts about their rows.
"""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from importlib import resources

from pydicom.uid import UID

from pacs import __version__
from pacs.client.contexts import COMMON_SOP_CLASSES
from pacs.client.peer import CALLING_AE_TITLE
from pacs.client.receive.receiver import MAX_ASSOCIATIONS
from pacs.config import CommitmentSection, Config, LimitsSection, PeerEntry
from pacs.conformance.statement import wording as words
from pacs.conformance.statement.wording import Row
from pacs.dicom import charset, header, keys, part10, syntaxes, values
from pacs.dicom.attributes import ATTRIBUTES, NOT_KEYS, Attribute, KeyType
from pacs.dicom.levels import MODELS, QueryLevel, Root
from pacs.dicom.matching_mode import MATCHING_MODES
from pacs.dicom.sop_classes import STORAGE, STORAGE_COMMITMENT, VERIFICATION
from pacs.dicom.syntaxes import SERVICE_SYNTAXES
from pacs.dimse.association import storage_contexts
from pacs.dimse.association.extended_negotiation import FIND_BYTES, RETRIEVE_BYTES
from pacs.dimse.messages import status
from pacs.dimse.messages.status import Service
from pacs.dimse.scp.handlers import LISTENS_WITHIN
from pacs.dimse.scp.retrieve_task import MAX_SUBOPERATIONS
from pacs.dimse.server.client_defects import DEFECTS
from pacs.dimse.upper import tls, user_information
from pacs.errors import PacsError
from pacs.pixels import capabilities

WIDTH = 120
"""The longest line of a paragraph."""


def conformance_statement(config: Config) -> str:
    """Return the conformance statement of a server with this configuration, in Markdown."""
    template = resources.files(__package__).joinpath("statement.md").read_text("utf-8")
    text = template.format(config=config, **_tables(config), **_facts())
    return "\n\n".join(_wrapped(block) for block in text.strip().split("\n\n")) + "\n"


def _wrapped(block: str) -> str:
    if block.startswith(("|", "#")):
        return block
    return textwrap.fill(block, WIDTH, break_long_words=False, break_on_hyphens=False)


def _table(head: Sequence[str], rows: Iterable[Row]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _tables(config: Config) -> dict[str, str]:
    """Return the tables by their name in the template."""
    return {
        "services": _table(("SOP Class", "UID", "SCU", "SCP"), _services()),
        "application_entity": _table(("what", "value"), _application_entity(config)),
        "access": _options(config, "access.callers", "access.called_ae", "access.users"),
        "rejections": _table(("result/source/reason", "when"), _rejections()),
        "limits": _table(("limit", "value", "meaning"), _limits(config)),
        "commitment": _table(("limit", "value", "meaning"), _commitment(config)),
        "failure_reasons": _table(("failure reason", "when"), _reasons()),
        "client_defects": _table(("client", "named by", "defect", "remedy", "key", "value"), _client_defects(config)),
        "fixed_limits": _table(("fixed limit", "value"), words.FIXED_LIMITS.items()),
        "service_syntaxes": _named(("transfer syntax", "UID"), SERVICE_SYNTAXES),
        "extended_negotiation": _table(("service", "byte", "option", "answer to 1"), _extended()),
        "duplicates": _options(config, "storage.duplicates"),
        "unknown_sop_classes": _options(config, "storage.unknown_sop_classes"),
        "storage_syntaxes": _named(("transfer syntax", "UID"), syntaxes.KEPT),
        "conversions": _table(("pixel data in", "UID", "decoded", "encoded"), _conversions()),
        "storage_classes": _named(("SOP Class", "UID"), sorted(STORAGE, key=lambda uid: (_name(uid), uid))),
        "models": _table(("information model", "levels"), _models()),
        "matching_modes": _table(("in a request", *MATCHING_MODES), _matching_modes()),
        "keys": "\n\n".join(f"##### {level.name}\n\n{_keys(level)}" for level in QueryLevel),
        "peers": _peers(config),
        "character_sets": _table(("Specific Character Set",), ((term,) for term in charset.DEFINED_TERMS)),
    } | {f"{service.name.lower()}_statuses": _statuses(service) for service in Service}


def _facts() -> dict[str, object]:
    """Return the single values by their name in the template."""
    return {
        "version": __version__,
        "value_limit": header.VALUE_LIMIT,
        "longest_pattern": keys.LONGEST_PATTERN,
        "wild_card_vrs": " ".join(sorted(values.WILDCARDS_ALLOWED)),
        "range_vrs": " ".join(sorted(values.RANGES_ALLOWED)),
        "leading_spaces_vrs": " ".join(sorted(values.TRAILING_PADDING_ONLY)),
        "not_keys": ", ".join(f"{keyword} {_tag(tag)}" for tag, keyword in NOT_KEYS.items()),
        "most_suboperations": MAX_SUBOPERATIONS,
        "listens_within": _number(LISTENS_WITHIN),
        "max_contexts": user_information.MAX_CONTEXTS,
        "converted_into": ", ".join(map(_name, storage_contexts.CONVERTED_INTO)),
        "uncompressed": " and ".join(map(_name, storage_contexts.UNCOMPRESSED)),
        "first_of_get": _listed(map(_name, storage_contexts.CONVERTED_INTO)),
        "store_warnings": _listed(f"{code:04X}" for code in sorted(status.STORE_WARNINGS)),
        "configuration": ", ".join(_configurable()),
        "client_title": CALLING_AE_TITLE,
        "client_classes": len(COMMON_SOP_CLASSES),
        "client_associations": MAX_ASSOCIATIONS,
        "ciphers": tls.CIPHERS.replace(":", ", "),
    }


# --- small parts -------------------------------------------------------------------------------------------------


def _name(uid: str) -> str:
    known = UID(uid)
    name = known.name if known.name != uid else words.NEWER_THAN_THE_DICTIONARY[uid]
    return f"{name} (retired)" if known.name != uid and known.is_retired else name


def _tag(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return ", ".join(first) + " or " + last


def _named(head: Sequence[str], uids: Iterable[str]) -> str:
    return _table(head, ((_name(uid), uid) for uid in uids))


def _conversions() -> Iterator[tuple[str, str, str, str]]:
    """Yield the compressed transfer syntaxes, and whether their pixel data is decoded and encoded."""
    for uid in syntaxes.KEPT:
        if not syntaxes.is_native(uid):
            yield _name(uid), uid, _yes(uid in capabilities.DECODED), _yes(uid in capabilities.ENCODED)


def _yes(truth: bool) -> str:
    return "yes" if truth else "no"


# --- networking --------------------------------------------------------------------------------------------------


def _services() -> Iterator[Row]:
    yield "Verification", VERIFICATION, "yes", "yes"
    for model in MODELS.values():
        yield _name(model.uid), model.uid, "no", "yes"
    yield _name(STORAGE_COMMITMENT), STORAGE_COMMITMENT, "no", "yes"
    yield f"{len(STORAGE)} Storage SOP Classes", "see section 3.2", "yes", "yes"


def _application_entity(config: Config) -> Iterator[Row]:
    yield "AE title", config.server.ae_title
    yield "port", config.server.port
    if config.tls.enabled:
        yield "port of encrypted associations", config.tls.port
    if config.server.aliases:
        yield "aliases", ", ".join(config.server.aliases)
    yield "application context name", user_information.APPLICATION_CONTEXT
    yield "implementation class UID", part10.IMPLEMENTATION_CLASS_UID
    yield "implementation version name", part10.IMPLEMENTATION_VERSION_NAME


def _options(config: Config, *names: str) -> str:
    rows = ((name, value, meaning, _is_active(config, name, value)) for name in names for value, meaning in _of(name))
    return _table(("option", "value", "meaning", "active"), rows)


def _of(name: str) -> Iterable[tuple[str, str]]:
    return words.OPTIONS[name].items()


def _is_active(config: Config, name: str, value: str) -> str:
    section, key = name.split(".")
    return "yes" if str(getattr(getattr(config, section), key)).lower() == value else "no"


def _rejections() -> Iterator[Row]:
    for each, when in words.REJECTED.items():
        yield f"{each.result}/{each.source}/{each.reason}", when


def _limits(config: Config) -> Iterator[Row]:
    for name in LimitsSection.model_fields:
        yield f"limits.{name}", _number(getattr(config.limits, name)), words.LIMITS[name]


def _client_defects(config: Config) -> Iterator[Row]:
    for each in DEFECTS:
        section, key = each.key.split(".")
        named = f"{each.class_uid}*, {each.version_name}*"
        yield each.client, named, each.defect, each.remedy, each.key, _number(getattr(getattr(config, section), key))


def _commitment(config: Config) -> Iterator[Row]:
    for name in CommitmentSection.model_fields:
        yield f"commitment.{name}", _number(getattr(config.commitment, name)), words.COMMITMENT[name]


def _reasons() -> Iterator[Row]:
    for reason, when in words.REASONS.items():
        yield f"{reason:04X}", when


def _number(value: float) -> float | str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:.10g}" if isinstance(value, float) else value


def _extended() -> Iterator[Row]:
    for service, table in (("C-FIND", FIND_BYTES), ("C-MOVE, C-GET", RETRIEVE_BYTES)):
        for place, (name, agreed) in enumerate(table, 1):
            yield service, place, words.EXTENDED_OPTIONS[name], int(agreed)


# --- queries and retrieves ---------------------------------------------------------------------------------------


def _models() -> Iterator[Row]:
    for root in Root:
        yield root.title, " ".join(level.name for level in root.levels)


def _matching_modes() -> Iterator[Row]:
    for switch, (about, on, off) in words.SWITCHES.items():
        yield about, *(on if getattr(mode, switch) else off for mode in MATCHING_MODES.values())


def _keys(level: QueryLevel) -> str:
    order = list(KeyType)
    here = [each for each in ATTRIBUTES.values() if each.level is level and each.tag not in NOT_KEYS]
    here.sort(key=lambda each: (order.index(each.key), each.tag))
    return _table(("attribute", "tag", "VR", "key", "matching", "place"), map(_key, here))


def _key(attribute: Attribute) -> Row:
    place = words.PLACES[attribute.kept]
    return attribute.keyword, _tag(attribute.tag), attribute.vr, attribute.key.value, _matching(attribute.vr), place


def _matching(vr: str) -> str:
    """Return the kinds of matching for keys of a VR, without universal matching."""
    if vr in values.RANGES_ALLOWED:
        return "single value, range"
    if vr in values.WILDCARDS_ALLOWED:
        return "single value, wild card"
    return {"UI": "list of UID", "SQ": "sequence"}.get(vr, "single value")


def _peers(config: Config) -> str:
    if not config.peers:
        return "The table of peers is empty."
    heads = (
        "peer", "matching mode", "preferred transfer syntaxes", "associations of a C-MOVE to it", "services",
        "move destinations", "connection with TLS",
    )  # fmt: skip
    return _table(heads, (_peer(config, each) for each in config.peers))


def _peer(config: Config, peer: PeerEntry) -> Row:
    manner, order = peer.manner or config.query.manner, _order(peer.transfer_syntaxes)
    where = "all peers" if peer.destinations is None else ", ".join(peer.destinations) or "none"
    may = " ".join(peer.services) or "none"
    return peer.ae_title, manner, order, peer.associations, may, where, "yes" if peer.tls else "no"


def _order(transfer_syntaxes: Sequence[str]) -> str:
    return ", ".join(map(_name, transfer_syntaxes)) or "order of the proposal"


# --- statuses -----------------------------------------------------------------------------------------------------


def _statuses(service: Service) -> str:
    """Return the statuses of a service: those without an error, then those of errors in the order of their codes."""
    unexpected = (
        f"{status.unexpected(service).status:04X}",
        "An internal error of the server, see its log.",
        words.COMMENT,
    )
    rows = sorted([*(_error(service, each) for each in words.ERRORS[service]), unexpected])
    return _table(("status", "meaning", "with"), (*words.ENDS[service], *rows))


def _error(service: Service, error: type[PacsError]) -> tuple[str, str, str]:
    meaning = (error.__doc__ or "").splitlines()[0]
    return f"{status.refusal(service, error('')).status:04X}", meaning, words.ELEMENT


# --- configuration -----------------------------------------------------------------------------------------------


def _configurable() -> Iterator[str]:
    """Yield the configuration keys that change this statement."""
    yield from ("`server.ae_title`", "`server.host`", "`server.port`", "`query.manner`", "`access.open_to_network`")
    yield from ("`access.services`", "`server.aliases`", "`server.listen`", "the keys of `tls` and `jwt`")
    yield from (f"`{name}`" for name in words.OPTIONS)
    yield from (
        "the keys of `limits`",
        "the keys of `commitment`",
        "the keys of `clients`",
        "the tables of `peers` and `users`",
    )
