"""What the conformance statement says about the rows of the code's tables: meanings and conditions, as data.

Each of these tables has the keys of another one, of the configuration, the manners, the errors; a test sees that none
is missing.
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

Row = Sequence[object]

NEWER_THAN_THE_DICTIONARY = {
    "1.2.840.10008.5.1.4.1.1.9.100.1": "Waveform Presentation State Storage",
    "1.2.840.10008.5.1.4.1.1.9.100.2": "Waveform Acquisition Presentation State Storage",
    "1.2.840.10008.5.1.4.1.1.66.7": "Label Map Segmentation Storage",
    "1.2.840.10008.5.1.4.1.1.66.8": "Height Map Segmentation Storage",
}
"""The names of what pydicom's dictionary does not have yet."""


OPTIONS: dict[str, dict[str, str]] = {
    "access.callers": {
        "anyone": "every calling AE title may associate",
        "peers": "those in the table of peers may",
    },
    "access.called_ae": {
        "any": "the called AE title does not matter",
        "ours": "it has to be the AE title of the server, or one of its aliases",
    },
    "access.users": {
        "ignored": "a user identity is taken without a check",
        "optional": "one that is proposed has to be that of a user, else the association is rejected",
        "required": "one has to be proposed, and be that of a user",
    },
    "storage.duplicates": {
        "keep": "one with the same attributes and values, native encodings, group lengths and padding aside, is "
        "answered with 0000, and a different one refused with C011; nothing is stored in either case",
        "replace": "the newer one is stored, and then the older one deleted",
        "reject": "it is refused with 0111",
    },
    "storage.unknown_sop_classes": {
        "false": "SOP Classes that are in no dictionary, private ones too, are refused",
        "true": "they are accepted for Storage, in the same transfer syntaxes",
    },
}
"""What the values of a key of the configuration mean, by key and value."""


REJECTED: dict[Rejection, str] = {
    rejections.NO_REASON: f"the requestor takes no PDU of {user_information.SMALLEST_PDU} bytes",
    rejections.APPLICATION_CONTEXT_NOT_SUPPORTED: "another application context name",
    rejections.CALLING_AE_NOT_RECOGNIZED: "a calling AE title that may not associate (`access.callers`), or not "
    "from its address, or not with the certificate it shows (`addresses` and `certificates` of a peer)",
    rejections.CALLED_AE_NOT_RECOGNIZED: "a called AE title that is not ours (`access.called_ae`)",
    rejections.PROTOCOL_VERSION_NOT_SUPPORTED: "another protocol version",
    rejections.USER_IDENTITY_REFUSED: "a user that is not known, or has not shown to be who it says (`access.users`)",
    rejections.TEMPORARY_CONGESTION: "the server stops",
    rejections.LOCAL_LIMIT_EXCEEDED: "as many associations as there may be (`limits.associations`), or as there "
    "may be from one address or of one AE title",
}
"""When an association request is rejected, and how."""


LIMITS = {
    "associations": "associations at the same time, in all processes of the server (`server.workers`)",
    "associations_per_address": "of them from one address, 0 for any number",
    "associations_per_ae": "of them of one calling AE title, 0 for any number",
    "pdu_size": "the longest P-DATA-TF PDU that is taken",
    "negotiation_seconds": "the complete association request, from the connection on",
    "idle_seconds": "the next message of an association",
    "message_seconds": "the rest of a message once it began, and a response to a C-STORE or N-EVENT-REPORT of ours",
    "least_rate": "bytes in a second that such a message has to bring beyond that time, 0 for any",
    "write_seconds": "a peer that does not read what is sent",
    "connect_seconds": "a move destination, or who is told of a storage commitment, to be reached",
    "drain_seconds": "running associations to end when the server stops",
    "cancel_grace": "the running sub-operation to end after a C-CANCEL",
    "identifier_size": "the longest Identifier",
    "identifier_elements": "elements of an Identifier, where a sequence or item counts as two",
    "elements": "elements of a data set that is stored, where a sequence or item counts as two",
    "nesting": "sequences inside of each other, in an Identifier and in what is stored",
    "inflated_size": "bytes that a deflated data set may inflate to",
    "free_space": "bytes that stay free where the files are; else C-STORE is refused with A700",
    "query_answers": "matches one query may have; more end it with A700 after so many answers; 0 for any number",
    "query_page": "matches read from the index at a time; the answers are the same",
    "query_scan": "rows one query may have matched row by row",
    "retrieve_studies": "studies a retrieve may select by other keys than unique ones",
    "pending_every": "sub-operations to a Pending response",
    "pending_seconds": "the time from one Pending response to the next, at most",
}
"""What each key of `limits` is for."""


COMMITMENT = {
    "same_association_seconds": "the time without a message after which the report goes on the association of the "
    "request; 0 is never",
    "first_retry_seconds": "the pause after the first report that failed; each further one is twice as long",
    "longest_retry_seconds": "the longest pause",
    "give_up_seconds": "the age of a request at which a report that fails is given up",
    "instances": "instances one request may name",
    "active": "active transactions",
    "active_per_peer": "active transactions of one AE title",
}
"""What each key of `commitment` is for."""


REASONS = {
    FailureReason.PROCESSING_FAILURE: "its file is missing, has another size or digest than when it was received, or "
    "cannot be read",
    FailureReason.NO_SUCH_INSTANCE: "it is not stored here",
    FailureReason.CLASS_INSTANCE_CONFLICT: "it is stored under another SOP Class",
    FailureReason.CLASS_NOT_SUPPORTED: "it is not stored, and its SOP Class is none that is",
    FailureReason.RESOURCE_LIMITATION: "it is whole, but cannot be made sure to survive a power cut at present",
}
"""When there is no commitment to an instance, by Failure Reason."""


FIXED_LIMITS = {
    "an A-ASSOCIATE-RQ or -AC": f"{upper_layer.MAX_ASSOCIATE:,} bytes",
    "a P-DATA-TF PDU beyond `limits.pdu_size`": f"{upper_layer.PDU_SLACK:,} bytes",
    "connections that are no association yet": server.MOST_UNASSOCIATED,
    "time for a requestor to close its connection at the end (ARTIM)": f"{AssociationLimits().artim:g} seconds",
    "an Identifier, whatever is configured": f"{identifier.LONGEST:,} bytes",
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
        "have one value each, unless relational queries or retrieves are negotiated; else A900",
    ),
    "ignore_lower_keys": ("keys below the level", "are ignored, with FF01", "A900"),
    "unknown_matches": (
        "a query with a key whose stored value is empty",
        "does not match",
        "matches, whatever the key asks for (PS3.4 C.2.2.1.2)",
    ),
    "multiple_values": (
        "several values of a key that is no UID, not negotiated",
        "any of them may match",
        "A900",
    ),
    "bare_level_lists_all": (
        "a query without the unique key of its level",
        "treats it as universal",
        "A900; without any key nothing matches",
    ),
    "retrieve_by_other_keys": ("a retrieve by other keys than unique ones", "selects", "A900"),
    "ignore_request_only": (
        "Query/Retrieve View or Instance Availability, or an empty Specific Character Set or Timezone Offset From UTC",
        "is ignored",
        "A900",
    ),
}
"""What each switch of a manner is about, and what it means on and off."""


PLACES = {Kept.COLUMN: "index", Kept.ROW: "row", Kept.COMPUTED: "computed"}


# --- statuses -----------------------------------------------------------------------------------------------------

COMMENT, ELEMENT = "0902", "0902, and 0901 where an element is at fault"
COUNTS, REMAINING = "1021, 1022, 1023", "1020, 1021, 1022, 1023"
FAILED = "and where any failed the list of them"

_FIND_ENDS: tuple[Row, ...] = (
    ("0000", "Success: every match that is known has been sent", ""),
    ("FF00", "Pending: all keys were matched or returned", "Identifier"),
    ("FF01", "Pending: some keys are not supported, or ignored", "Identifier"),
    ("FE00", "Cancel", ""),
)
_RETRIEVE_ENDS: tuple[Row, ...] = (
    ("0000", "Success: all sub-operations completed", COUNTS),
    ("FF00", "Pending", REMAINING),
    ("FE00", "Cancel", f"once sub-operations are known {REMAINING}, {FAILED}"),
    (
        "B000",
        "Warning: some sub-operations failed or warned, or all warned",
        f"{COUNTS}, and where any failed 0902 and the list of them",
    ),
    ("A702", "Failure: all sub-operations failed", f"0902, {COUNTS}, and the list of them"),
)
ENDS: dict[Service, tuple[Row, ...]] = {
    Service.ECHO: (("0000", "Success", ""),),
    Service.STORE: (
        ("0000", "Success: the instance is stored, or was before", ""),
        ("B000", "Warning: stored, under another patient or study than it names", COMMENT),
    ),
    Service.FIND: _FIND_ENDS,
    Service.MOVE: _RETRIEVE_ENDS,
    Service.GET: _RETRIEVE_ENDS,
    Service.COMMIT: (("0000", "Success: the request is kept, and will be reported on", ""),),
}
"""How an operation ends that no error ends: status, meaning, and what the response has besides."""

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
"""Which errors can end an operation; their statuses are those of `pacs.dimse.messages.status`."""
