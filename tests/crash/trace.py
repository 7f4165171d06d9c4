"""Reads the system calls of a process and of those that it forks from a log of `strace -f -xx`."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CALLS = (
    "openat", "close", "write", "pwrite64", "pwritev", "pwritev2", "ftruncate", "fallocate", "fsync", "fdatasync",
    "syncfs", "rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat",
    "sendmsg", "fork", "vfork", "clone", "clone3",
)  # fmt: skip
"""The calls that change files, make changes durable, send to a peer, or start a process."""

FORKS = ("fork", "vfork", "clone", "clone3")

NEVER = 1 << 60
"""The end of a call that did not end."""

Descriptor = tuple[int, int]
"""A process and the number of one of its descriptors."""

_BEGINNING = re.compile(r"(\d+) +(\w+)\((.*)")
_REST = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_UNFINISHED = " <unfinished ...>"


@dataclass(slots=True)
class Call:
    """A system call. `began` and `ended` are line numbers of the log."""

    name: str
    texts: Sequence[bytes]
    """Its text arguments: paths and written bytes."""
    words: Sequence[str]
    """Its arguments, with `%` for texts."""
    began: int
    ended: int = NEVER
    result: int = -1
    process: int = 0

    @property
    def descriptor(self) -> "Descriptor":
        """The first argument."""
        return self.process, int(self.words[0])

    @property
    def opened(self) -> "Descriptor":
        """The result as a descriptor."""
        return self.process, self.result

    @property
    def is_fork(self) -> bool:
        """Whether it started a process, which has the descriptors of its own one, and no thread."""
        return self.name in FORKS and self.result > 0 and not any("CLONE_THREAD" in word for word in self.words)

    @property
    def content(self) -> bytes:
        """Its texts joined, as far as they were written."""
        return b"".join(self.texts)[: max(self.result, 0)] if self.ended != NEVER else b"".join(self.texts)


def command(log: Path, calls: Iterable[str] = CALLS) -> list[str]:
    """Return the prefix of a command that records it; the process itself remains the caller's child."""
    traced = f"trace={','.join(calls)}"
    return ["strace", "-f", "-DD", "-qq", "--seccomp-bpf", "-xx", "-s", str(1 << 28), "-e", traced, "-o", str(log)]


def calls(log: Path) -> list[Call]:
    """Read the calls of a log, in the order in which they began."""
    found: list[Call] = []
    under_way: dict[str, Call] = {}
    starters: dict[int, int] = {}
    """The thread that started each thread of the same process."""
    with log.open(encoding="ascii") as lines:
        for place, line in enumerate(lines):
            if beginning := _BEGINNING.match(line):
                thread, name, rest = beginning.groups()
                is_unfinished = rest.endswith(_UNFINISHED)
                arguments, result = (rest.removesuffix(_UNFINISHED), None) if is_unfinished else _parted(rest)
                call = Call(name, *_arguments(arguments), began=place, process=int(thread))
                found.append(call)
                under_way[thread] = call
            elif ending := _REST.match(line):
                thread, _, rest = ending.groups()
                _, result = _parted(rest)
            else:
                continue
            if result is not None:
                call = under_way[thread]
                call.ended, call.result = place, result
                if call.name in FORKS and not call.is_fork:
                    starters[result] = call.process
    for call in found:
        while call.process in starters:
            call.process = starters[call.process]
    return found


def joined(*logs: Sequence[Call]) -> list[Call]:
    """Return the calls of processes that ran one after the other, with a call `exit` at the end of each."""
    found: list[Call] = []
    for log in logs:
        start = 1 + max((call.began if call.ended == NEVER else call.ended for call in found), default=0)
        for call in log:
            call.began += start
            call.ended += start if call.ended != NEVER else 0
        found += log
        last = 1 + max((call.began if call.ended == NEVER else call.ended for call in log), default=0)
        found.append(Call("exit", (), ("0",), last, last + 1, 0))
    return found


def _parted(rest: str) -> tuple[str, int | None]:
    """Split a call into arguments and result; None for a call that did not return."""
    arguments, _, returned = rest.rpartition(") ")
    word = returned.split("= ", 1)[1].split()[0]
    return arguments, None if word == "?" else int(word, 0)


def _arguments(text: str) -> tuple[list[bytes], list[str]]:
    texts = []
    for hexadecimal, is_cut in _TEXT.findall(text):
        assert not is_cut, "strace has truncated a text"
        texts.append(bytes.fromhex(hexadecimal.replace("\\x", "")))
    return texts, [word.strip() for word in _TEXT.sub("%", text).split(",")]


def answers(log: Sequence[Call]) -> Iterator[tuple[int, str, int]]:
    """Yield the C-STORE responses that were sent: position, SOP Instance UID, status."""
    from tests.raw import messages

    for call in log:
        data = b"".join(call.texts) if call.name == "sendmsg" else b""
        if data[:1] != b"\x04":
            continue
        for message in messages(_bodies(data)):
            if message.number(0x0100) == 0x8001:
                yield call.began, message.text(0x1000), message.status


def _bodies(data: bytes) -> Iterator[bytes]:
    """Yield the bodies of the P-DATA-TF PDUs in one write."""
    while data:
        length = int.from_bytes(data[2:6], "big")
        yield data[6 : 6 + length]
        data = data[6 + length :]
