"""Checks the SHA-256 of a stored object: the digest of the received data set, without the head before it."""

from collections.abc import Iterable
from hashlib import sha256

from pacs.errors import InstanceDamaged


def require(digest: str, pieces: Iterable[bytes], head_size: int = 0) -> None:
    """Raise InstanceDamaged unless `pieces`, without their first `head_size` bytes, have this SHA-256 in hexadecimal.

    Raises what `pieces` raises.
    """
    found, seen = sha256(), 0
    for piece in pieces:
        found.update(memoryview(piece)[max(0, head_size - seen) :])
        seen += len(piece)
    if found.hexdigest() != digest:
        raise InstanceDamaged("The stored file does not contain what was received")
