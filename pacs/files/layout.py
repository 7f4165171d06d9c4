"""Names of the files and folders in a local store: `2026/11/21/03/….dcm` for objects, and folders beside them."""

import re
from datetime import UTC, datetime

KEY = re.compile(r"\d{4}/\d\d/\d\d/\d\d/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.dcm")
"""The keys of objects, which are also their paths below the root."""

INCOMING = "incoming"
"""The folder of half-written objects."""

QUARANTINE = "quarantine"
"""The folder of damaged and foreign files; nothing in it is ever touched again."""

UPKEEP = "upkeep"
"""The folder of the maintenance lock and of temporary indexes."""

RUNNING = "running"
"""The folder of the markers of running servers."""

INCOMPLETE = "incomplete"
"""The file that says that the index lacks objects of this store."""

RESTORING = "restoring"
"""The file that names the backup of an unfinished restore."""

PIECE = 1 << 18
"""Bytes of a stored file read at a time; small enough to stay in the processor's cache until they are sent."""


def hour(moment: datetime) -> str:
    """Return the folder of the objects that are committed at this moment, which is in UTC."""
    return f"{moment.year:04}/{moment.month:02}/{moment.day:02}/{moment.hour:02}"


def hour_of(key: str) -> str:
    """Return the folder in a key."""
    return key.rpartition("/")[0]


def start_of(hour: str) -> datetime:
    """Return the moment at which the hour of a folder begins. Raises ValueError when there is no such hour."""
    year, month, day, its_hour = map(int, hour.split("/"))
    return datetime(year, month, day, its_hour, tzinfo=UTC)


def is_among_objects(name: str) -> bool:
    """Whether a name leads into a folder of objects and not out of it again."""
    parts = name.split("/")
    return parts[0].isdecimal() and not {"", ".", ".."} & set(parts) and "\0" not in name
