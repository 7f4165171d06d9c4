"""The texts of the conformance statement about the rows of the tables in the code: meanings and conditions.

Each table has the keys of another one, such as the configuration, the matching modes or the errors; a test compares
them.
"""

from collections.abc import Sequence

from pacs import errors
from pacs.dicom import identifier
from pacs.dicom.attributes import Kept
from pacs.dicom.commitment import FailureReason
from pacs.dimse.association.association import AssociationLimits
from pacs.dimse.messages.status import Service
from pacs.dimse.server import server
from pacs.dimse.upper import rejections, upper_layer, user_information
from pacs.dimse.upper.rejections import Rejection
from pacs.pixels import frame_job

Row = Sequence[object]

NEWER_THAN_THE_DICTIONARY = {
    "1.2.840.10008.5.1.4.1.1.9.100.1": "Waveform Presentation State Storage",
    "1.2.840.10008.5.1.4.1.1.9.100.2": "Waveform Acquisition Presentation State Storage",
    "1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation Storage",
    "1.2.840.10008.5.1.4.1.1.66.8": "Height Map Segmentation Storage",
}
"""The names of SOP Classes that are missing in pydicom's dictionary."""


OPTIONS: dict[str, dict[str, str]] = {
    "access.callers": {
        "anyone": "every calling AE title may associate",
        "peers": "only those in the table of peers may associate",
    },
    "access.called_ae": {
        "any": "every called AE title is accepted",
        "ours": "it must be the AE title of the server, or one of its aliases",
    },
    "access.users": {
        "ignored": "a user identity is accepted without a check",
        "optional": "a proposed user identity must be valid, else the association is rejected",
        "required": "a valid user identity must be proposed, else the association is rejected",
    },
    "storage.duplicates": {
        "keep": "an instance with the same attributes and values, apart from native encodings, group lengths and "
        "padding, is answered with 0000, and a different one refused with C011; nothing is stored in either case",
        "replace": "the newer instance is stored, and then the older one deleted",
        "reject": "the instance is refused with 0111",
    },
    "storage.unknown_sop_classes": {
        "false": "SOP Classes that are not in the dictionary, including private ones, are refused",
        "true": "they are accepted for Storage, in the same transfer syntaxes",
    },
}
"""The meaning of the values of a configuration key, by key and value."""


REJECTED: dict[Rejection, str] = {
    rejections.NO_REASON: f"the requestor accepts no PDU of {user_information.SMALLEST_PDU} bytes",
    rejections.APPLICATION_CONTEXT_NOT_SUPPORTED: "another application context name",
    rejections.CALLING_AE_NOT_RECOGNIZED: "a blank calling AE title, or one that may not associate (`access.callers`), "
    "or not from this address or with this certificate (`addresses` and `certificates` of a peer)",
    rejections.CALLED_AE_NOT_RECOGNIZED: "a called AE title that is not one of the server (`access.called_ae`)",
    rejections.PROTOCOL_VERSION_NOT_SUPPORTED: "another protocol version",
    rejections.USER_IDENTITY_REFUSED: "an unknown user, or one with wrong credentials (`access.users`)",
    rejections.TEMPORARY_CONGESTION: "the server is stopping",
    rejections.LOCAL_LIMIT_EXCEEDED: "the limit of associations is reached (`limits.associations`), or that of "
    "one address or one AE title",
}
"""The reasons for which an association request is rejected."""


LIMITS = {
    "associations": "associations at the same time, in all processes of the server (`server.workers`)",
    "associations_per_address": "associations from one address, 0 for no limit",
    "associations_per_ae": "associations of one calling AE title, 0 for no limit",
    "pdu_size": "the longest P-DATA-TF PDU that is accepted",
    "negotiation_seconds": "the time from the connection to the complete association request",
    "idle_seconds": "the time to the next message of an association",
    "message_seconds": "the time for the rest of a message after its beginning, and for the response to a C-STORE or "
    "N-EVENT-REPORT request of the server",
    "least_rate": "bytes per second that such a message must transfer after that time, 0 for no limit",
    "write_seconds": "the time for a peer to read what was sent",
    "connect_seconds": "the time to connect to a move destination, or to the receiver of a storage commitment report",
    "drain_seconds": "the time for running associations to end when the server stops",
    "cancel_grace": "the time for the running sub-operation to end after a C-CANCEL",
    "identifier_size": "the longest Identifier",
    "identifier_elements": "elements of an Identifier; a sequence or item counts as two",
    "elements": "elements of a data set to store; a sequence or item counts as two",
    "inflated_size": "bytes that a deflated data set may inflate to",
    "free_space": "bytes that must stay free in the file system of the files; otherwise C-STORE is refused with A700",
    "decoders": "processes that decode and encode images, in all workers together; auto is one for each CPU core",
    "query_answers": "matches of one query; after that many a query ends with A700; 0 for no limit",
    "query_scan": "rows that one query may match row by row",
    "retrieve_studies": "studies that a retrieve may select by keys other than unique keys",
    "pending_every": "sub-operations for each Pending response",
    "pending_seconds": "the longest time between two Pending responses",
}
"""The meaning of each key of `limits`."""


COMMITMENT = {
    "same_association_seconds": "the idle time after which the report is sent on the association of the "
    "request; 0 for never",
    "first_retry_seconds": "the pause after the first failed report; each further pause is twice as long",
    "longest_retry_seconds": "the longest pause",
    "give_up_seconds": "the age of a request at which its report may be given up",
    "instances": "instances in one request",
    "active": "active transactions",
    "active_per_peer": "active transactions of one AE title",
}
"""The meaning of each key of `commitment`."""


REASONS = {
    FailureReason.PROCESSING_FAILURE: "its file is missing, has another size or digest than when it was received, or "
    "cannot be read",
    FailureReason.NO_SUCH_INSTANCE: "it is not stored here",
    FailureReason.CLASS_INSTANCE_CONFLICT: "it is stored under another SOP Class",
    FailureReason.CLASS_NOT_SUPPORTED: "it is not stored, and its SOP Class is not supported",
    FailureReason.RESOURCE_LIMITATION: "it is complete, but cannot be made durable at present",
}
"""The reasons for which an instance is not committed, by Failure Reason."""


FIXED_LIMITS = {
    "an A-ASSOCIATE-RQ or -AC": f"{upper_layer.MAX_ASSOCIATE:,} bytes",
    "a P-DATA-TF PDU beyond `limits.pdu_size`": f"{upper_layer.PDU_SLACK:,} bytes",
    "connections without an association": server.MOST_UNASSOCIATED,
    "time for a requestor to close its connection at the end (ARTIM)": f"{AssociationLimits().artim:g} seconds",
    "an Identifier, whatever is configured": f"{identifier.LONGEST:,} bytes",
    "a frame that is decoded or encoded": f"{frame_job.MOST_FRAME:,} bytes",
}


EXTENDED_OPTIONS = {
    "relational": "relational queries or retrieves",
    "combined_date_time": "combined date-time matching",
    "fuzzy_names": "fuzzy semantic matching of person names",
    "timezone": "timezone query adjustment",
    "view": "enhanced multi-frame image conversion (Query/Retrieve View)",
    "empty_values": "empty value matching",
    "multiple_values": "multiple value matching",
}


SWITCHES: dict[str, tuple[str, str, str]] = {
    "relational": (
        "unique keys of the levels above",
        "may be missing",
        "must have one value each, unless relational queries or retrieves are negotiated; else A900",
    ),
    "ignore_lower_keys": ("keys below the level", "are ignored, with FF01", "A900"),
    "unknown_matches": (
        "an entity whose stored value for a key is empty",
        "matches, whatever the value of the key (PS3.4 C.2.2.1.2)",
        "does not match",
    ),
    "multiple_values": (
        "several values of a key other than a UID, not negotiated",
        "any of them may match",
        "A900",
    ),
    "bare_level_lists_all": (
        "a query without the unique key of its level",
        "treats that key as universal",
        "A900; without any key nothing matches",
    ),
    "retrieve_by_other_keys": ("a retrieve by keys other than unique keys", "selects", "A900"),
    "ignore_request_only": (
        "Query/Retrieve View or Instance Availability, or an empty Specific Character Set or Timezone Offset From UTC",
        "is ignored",
        "A900",
    ),
    "asterisk_matches_all": (
        "asterisks alone in a key of AS DA DS DT IS TM UI",
        "are universal",
        "A900; in AS they are a literal value",
    ),
    "typed_dates": (
        "a date, time or range as people type it, whose meaning is certain: a year or month in DA (`2024`, `202401`), "
        "ISO 8601 (`2024-01-31`, in DT also `2024-01-31T10:30:00Z`), a range to 24:00 or to a day from 29 to 31 that "
        "the month does not have (`000000-240000`, `20240201-20240231`)",
        "matches all moments in it",
        "A900",
    ),
    "level_synonyms": (
        "the Query/Retrieve Levels INSTANCE, INSTANCES, IMAGES, STUDIES and PATIENTS",
        "are IMAGE, STUDY and PATIENT, as in the responses",
        "A900",
    ),
    "ignore_empty_unique_key": (
        "a retrieve with an empty unique key of its level and another key of that level with a value",
        "selects by the other key",
        "A900",
    ),
    "equivalent_accents": (
        "the same text, other than a name, with composed or decomposed accents (Unicode NFC, NFD)",
        "matches",
        "does not match",
    ),
}
"""The subject of each switch of a matching mode, and its meaning on and off."""


PLACES = {Kept.COLUMN: "index", Kept.ROW: "row", Kept.COMPUTED: "computed"}


# --- statuses -----------------------------------------------------------------------------------------------------

COMMENT, ELEMENT = "0902", "0902, and 0901 where an element is at fault"
COUNTS, REMAINING = "1021, 1022, 1023", "1020, 1021, 1022, 1023"
FAILED = "and the failed list if any failed"

_FIND_ENDS: tuple[Row, ...] = (
    ("0000", "Success: all matches have been sent", ""),
    ("FF00", "Pending: all keys were matched or returned", "Identifier"),
    ("FF01", "Pending: some keys are not supported or ignored", "Identifier"),
    ("FE00", "Cancel", ""),
)
_RETRIEVE_ENDS: tuple[Row, ...] = (
    ("0000", "Success: all sub-operations completed", COUNTS),
    ("FF00", "Pending", REMAINING),
    ("FE00", "Cancel", f"if sub-operations were selected, {REMAINING}, {FAILED}"),
    (
        "B000",
        "Warning: some sub-operations failed or warned, or all warned",
        f"{COUNTS}, and if any failed 0902 and the failed list",
    ),
    ("A702", "Failure: all sub-operations failed", f"0902, {COUNTS}, and the failed list"),
)
ENDS: dict[Service, tuple[Row, ...]] = {
    Service.ECHO: (("0000", "Success", ""),),
    Service.STORE: (
        ("0000", "Success: the instance is stored, or was stored before", ""),
        ("B000", "Warning: stored under another patient or study than it names", COMMENT),
    ),
    Service.FIND: _FIND_ENDS,
    Service.MOVE: _RETRIEVE_ENDS,
    Service.GET: _RETRIEVE_ENDS,
    Service.COMMIT: (("0000", "Success: the request is accepted, and a report will follow", ""),),
}
"""The statuses of an operation without an error: status, meaning, and further fields of the response."""

_RETRIEVE_ERRORS = (
    errors.NotAuthorized,
    errors.IdentifierError,
    errors.TooManyMatches,
    errors.UndecodableDataSet,
    errors.OutOfResources,
    errors.IndexUnavailable,
)
ERRORS: dict[Service, tuple[type[errors.PacsError], ...]] = {
    Service.ECHO: (),
    Service.STORE: (
        errors.NotAuthorized,
        errors.SOPClassMismatch,
        errors.MissingUID,
        errors.UndecodableDataSet,
        errors.DuplicateInstance,
        errors.InstanceConflict,
        errors.InstanceUnreadable,
        errors.IndexUnavailable,
        errors.StorageUnavailable,
    ),
    Service.FIND: (
        errors.NotAuthorized,
        errors.IdentifierError,
        errors.TooManyMatches,
        errors.UndecodableDataSet,
        errors.InstanceUnreadable,
        errors.OutOfResources,
        errors.IndexUnavailable,
    ),
    Service.MOVE: (errors.UnknownDestination, *_RETRIEVE_ERRORS),
    Service.GET: _RETRIEVE_ERRORS,
    Service.COMMIT: (
        errors.NoSuchInstance,
        errors.CommitmentRequestError,
        errors.NoSuchAction,
        errors.DuplicateTransaction,
        errors.UndecodableDataSet,
        errors.OutOfResources,
        errors.IndexUnavailable,
    ),
}
"""The errors that can end an operation; their statuses are those of `pacs.dimse.messages.status`."""
