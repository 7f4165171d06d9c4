"""The level and information model of an Identifier (PS3.4 C.2.2, C.4.1.1.3), and its encoding."""

from collections.abc import Iterable

from pydicom import Dataset

from pacs.dicom.attributes import NOT_KEYS, attribute, by_keyword
from pacs.dicom.dataset import View
from pacs.dicom.identifier import encode
from pacs.dicom.identifier_builder import put_code
from pacs.dicom.levels import UNIQUE_KEYS, DimseOperation, QueryLevel, Root, level_named, model_of
from pacs.errors import InvalidArgument

Level = QueryLevel | str | None
Model = Root | str

QUERY_LEVEL = 0x00080052

_MODELS = {
    "patient": Root.PATIENT,
    "study": Root.STUDY,
    "patient-study-only": Root.PATIENT_STUDY_ONLY,
}


def sop_class_of(model: Model, operation: DimseOperation) -> str:
    """Return the Query/Retrieve SOP Class of an information model. Raises InvalidArgument for an unknown model."""
    return model_of(root_of(model), operation).uid


def root_of(model: Model) -> Root:
    """Return the information model with this name. Raises InvalidArgument."""
    if isinstance(model, Root):
        return model
    if model not in _MODELS:
        raise InvalidArgument(f"An information model is one of {', '.join(_MODELS)}, not {model!r}")
    return _MODELS[model]


# --- the level ---------------------------------------------------------------------------------------------------


def level_of(level: Level) -> QueryLevel | None:
    """Return the level with this name, in the singular or plural. Raises InvalidArgument."""
    if level is None or isinstance(level, QueryLevel):
        return level
    found = level_named(level)
    if found is None:
        raise InvalidArgument(f"A level is one of {', '.join(QueryLevel.__members__)}, not {level!r}")
    return found


def with_level(dataset: Dataset, level: Level, root: Root, *, unique_only: bool = False) -> QueryLevel:
    """Set Query/Retrieve Level (0008,0052): the given level, else the one in the data set, else that of the lowest key.

    With `unique_only`, only unique keys with a value count, as in a retrieve. Raises InvalidArgument.
    """
    stated = View.of(dataset).text(dataset.get_item(QUERY_LEVEL)).strip(" \0") if QUERY_LEVEL in dataset else ""
    found = level_of(stated or None) if level is None else level_of(level)
    if found is None:
        found = root.level_of_key(max(_levels(dataset, unique_only), default=root.levels[0]))
    if found not in root.levels:
        raise InvalidArgument(f"{root.title} has no level {found.name}")
    put_code(dataset, QUERY_LEVEL, found.name)
    return found


def _levels(dataset: Dataset, unique_only: bool) -> Iterable[QueryLevel]:
    for tag in dataset.keys():  # noqa: SIM118
        known = attribute(tag) if tag not in NOT_KEYS else None
        if known is None:
            continue
        if not unique_only or (known.keyword in UNIQUE_KEYS.values() and View.of(dataset).texts(known)):
            yield known.level


def uids(dataset: Dataset, keyword: str) -> tuple[str, ...]:
    """Return the values of a UID key, without padding."""
    return tuple(each.strip(" \0") for each in View.of(dataset).texts(by_keyword(keyword)))


def encoded(dataset: Dataset, transfer_syntax: str) -> bytes:
    """Encode an Identifier in a transfer syntax. Raises InvalidArgument for values that cannot be encoded."""
    try:
        return encode(dataset, transfer_syntax)
    except UnicodeEncodeError as error:
        raise InvalidArgument("A text of the Identifier cannot be encoded in its Specific Character Set") from error
    except OSError as error:  # raised by pydicom
        raise InvalidArgument("A value of the Identifier is not valid for its VR") from error
