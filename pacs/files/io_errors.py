"""Translation of OSError into the project's errors, by context managers that cost little."""

import errno

from pacs.errors import InstanceMissing, InstanceUnreadable, StorageUnavailable
from pacs.support.exhaustion import EXHAUSTED

_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


class Writing:
    """Raises StorageUnavailable with `sentence` and the system's reason for an OSError in the `with` block."""

    def __init__(self, sentence: str, sentence_if_full: str = "") -> None:
        self._sentence, self._sentence_if_full = sentence, sentence_if_full or sentence

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            sentence = self._sentence_if_full if error.errno in _FULL else self._sentence
            raise StorageUnavailable(f"{sentence} ({error.strerror})") from error


class _Reading:
    """Raises InstanceMissing or InstanceUnreadable for an OSError in the `with` block.

    Raises StorageUnavailable when the process is out of resources: the file itself may be fine.
    """

    def __enter__(self) -> None:
        """Do nothing."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, FileNotFoundError):
            raise InstanceMissing("The stored file is missing") from error
        if isinstance(error, OSError) and error.errno in EXHAUSTED:
            raise StorageUnavailable(f"The file store cannot be used ({error.strerror})") from error
        if isinstance(error, OSError):
            raise InstanceUnreadable(f"The stored file cannot be read ({error.strerror})") from error


WRITING = Writing("The file store cannot be used", "No space left for files")
READING = _Reading()
