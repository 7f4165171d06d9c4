"""The system calls of a process as strace writes them with -f -xx: what was called with what, and in which order."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CALLS = (
    "openat", "close", "write", "pwrite64", "pwritev", "pwritev2", "ftruncate", "fallocate", "fsync", "fdatasync",
    "syncfs", "rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "rmdir", "mkdir", "mkdirat",
    "sendmsg",
)  # fmt: skip
"""What changes files, makes changes durable, or says something to a peer."""

NEVER = 1 << 60
"""When a call ended that did not."""

_BEGINNING = re.compile(r"(\d+) +(\w+)\((.*)")
_REST = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')
_UNFINISHED = " <unfinished ...>"


@dataclass(slots=True)
class Call:
    """One system call. `began` and `ended` are places in the order of everything that was traced."""

    name: str
    texts: Sequence[bytes]
    """Its arguments of text: paths, and what is written."""
    words: Sequence[str]
    """Its arguments, with `%` in the place of texts."""
    began: int
    ended: int = NEVER
    result: int = -1

    @property
    def descriptor(self) -> int:
        """Its first argument."""
        return int(self.words[0])

    @property
    def content(self) -> bytes:
        """All of its texts, one behind the other, as far as they were taken."""
        return b"".join(self.texts)[: max(self.result, 0)] if self.ended != NEVER else b"".join(self.texts)


def command(log: Path, calls: Iterable[str] = CALLS) -> list[str]:
    """The beginning of a command that records what the rest of it does; the process itself remains our child."""
    traced = f"trace={','.join(calls)}"
    return ["strace", "-f", "-DD", "-qq", "--seccomp-bpf", "-xx", "-s", str(1 << 28), "-e", traced, "-o", str(log)]


def calls(log: Path) -> list[Call]:
    """The calls in a log, in the order in which they began."""
    found: list[Call] = []
    under_way: dict[str, Call] = {}
    with log.open(encoding="ascii") as lines:
        for place, line in enumerate(lines):
            if beginning := _BEGINNING.match(line):
                thread, name, rest = beginning.groups()
                is_unfinished = rest.endswith(_UNFINISHED)
                arguments, result = (rest.removesuffix(_UNFINISHED), None) if is_unfinished else _parted(rest)
                call = Call(name, *_arguments(arguments), began=place)
                found.append(call)
                under_way[thread] = call
            elif ending := _REST.match(line):
                thread, _, rest = ending.groups()
                _, result = _parted(rest)
            else:
                continue
            if result is not None:
                under_way[thread].ended, under_way[thread].result = place, result
    return found


def _parted(rest: str) -> tuple[str, int | None]:
    """The arguments, and the result; None where the call never came back."""
    arguments, _, said = rest.rpartition(") ")
    word = said.split("= ", 1)[1].split()[0]
    return arguments, None if word == "?" else int(word, 0)


def _arguments(text: str) -> tuple[list[bytes], list[str]]:
    texts = []
    for hexadecimal, is_cut in _TEXT.findall(text):
        assert not is_cut, "strace has left bytes out"
        texts.append(bytes.fromhex(hexadecimal.replace("\\x", "")))
    return texts, [word.strip() for word in _TEXT.sub("%", text).split(",")]


def answers(log: Sequence[Call]) -> Iterator[tuple[int, str, int]]:
    """The C-STORE responses that were sent: when, for which SOP Instance UID, with which status."""
    from tests.raw import messages

    for call in log:
        data = b"".join(call.texts) if call.name == "sendmsg" else b""
        if data[:1] != b"\x04":
            continue
        for message in messages(_bodies(data)):
            if message.number(0x0100) == 0x8001:
                yield call.began, message.text(0x1000), message.status


def _bodies(data: bytes) -> Iterator[bytes]:
    """The bodies of the P-DATA-TF PDUs in what was sent at once."""
    while data:
        length = int.from_bytes(data[2:6], "big")
        yield data[6 : 6 + length]
        data = data[6 + length :]
