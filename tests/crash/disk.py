"""A disk as a power cut may leave it: the file operations of a trace, done again, with what is durable kept apart.

What the model assumes, which is what POSIX promises and no more:

- What was written to a file is durable when an fsync, fdatasync or syncfs that began after the write had ended has
  itself ended; what is written to a file opened with O_DSYNC (or O_SYNC), when that write has ended. Before that any
  part of it may be on the disk, in sectors of 512 bytes and in any order, or nothing. A sector is never torn, and a
  write damages no sector but its own (SQLite assumes both, too).
- A name in a folder (of a file that was made, renamed or removed, of a folder) is durable when an fsync of *that*
  folder or a syncfs has ended. An fsync of the file is none of its name; an fsync of a folder is none of its own name
  in the folder above. Before that each change may be on the disk or not, changes of one name in their order. Both
  sides of a rename come together, unless one was made durable alone.
- The length of a file may be on the disk before its content, which then reads as zeros.
- Which of two operations of two threads came first is what strace saw; the one that had not ended when the power went
  may have been done, partly or not at all.
- What is durable stays: a disk that forgets what it has confirmed is outside of it. So is shared memory (SQLite's -shm,
  which is made anew), and everything outside the folder that is looked at.
"""

import itertools
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.trace import NEVER, Call

SECTOR = 512

SYNCED_WRITES = ("O_DSYNC", "O_SYNC")


@dataclass(slots=True)
class Change:
    """What was done to a file and is not durable yet: content at a place, or with None a new length."""

    ended: int
    place: int
    content: bytes | None = None

    def apply(self, data: bytearray) -> None:
        """Do it to the content of a file."""
        if self.content is None:
            del data[self.place :]
            data.extend(bytes(self.place - len(data)))
        else:
            data.extend(bytes(max(0, self.place - len(data))))
            data[self.place : self.place + len(self.content)] = self.content

    def torn(self, chance: random.Random) -> "Iterator[Change]":
        """Some of the sectors of it."""
        if self.content is None:
            if chance.random() < 0.5:
                yield self
            return
        start, end = self.place, self.place + len(self.content)
        for sector in range(start // SECTOR, -(-end // SECTOR)):
            if chance.random() < 0.5:
                first, last = max(start, sector * SECTOR), min(end, (sector + 1) * SECTOR)
                yield Change(self.ended, first, self.content[first - start : last - start])


@dataclass(eq=False, slots=True)
class File:
    """A file: what processes read, what is durable, and what lies between."""

    seen: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    pending: list[Change] = field(default_factory=list)

    def change(self, change: Change, *, is_durable: bool = False) -> None:
        """Do something to it."""
        change.apply(self.seen)
        if is_durable:
            change.apply(self.durable)
        else:
            self.pending.append(change)

    def sync(self, began: int) -> None:
        """Make durable what had ended before a sync began."""
        for change in self.pending:
            if change.ended <= began:
                change.apply(self.durable)
        self.pending = [each for each in self.pending if each.ended > began]


@dataclass(slots=True)
class Naming:
    """A change of a name that is not durable yet: what it stands for from then on. `act` is the same for one rename."""

    ended: int
    name: str
    node: "Node | None"
    act: int


@dataclass(eq=False, slots=True)
class Folder:
    """A folder: the names that processes see, those that are durable, and what lies between."""

    seen: "dict[str, Node]" = field(default_factory=dict)
    durable: "dict[str, Node]" = field(default_factory=dict)
    pending: list[Naming] = field(default_factory=list)

    def name(self, naming: Naming) -> None:
        """Change a name."""
        _rename(self.seen, naming)
        self.pending.append(naming)

    def sync(self, began: int) -> None:
        """Make durable what had ended before a sync began."""
        for naming in self.pending:
            if naming.ended <= began:
                _rename(self.durable, naming)
        self.pending = [each for each in self.pending if each.ended > began]


Node = File | Folder


def _rename(names: "dict[str, Node]", naming: Naming) -> None:
    if naming.node is None:
        names.pop(naming.name, None)
    else:
        names[naming.name] = naming.node


# --- the calls ---------------------------------------------------------------------------------------------------


class Disk:
    """What is below `root`, from what is there now on. The calls of a trace are done to it one after the other."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._tree = _loaded(root) if root.exists() else Folder()
        self._open: dict[int, tuple[Node, bool, bool]] = {}
        """By descriptor: what is open, whether its writes are synced, and whether they go to its end."""
        self._acts = itertools.count()

    def begin(self, call: Call) -> None:
        """Do what a call does as soon as it begins."""
        if call.name == "close":  # from now on its number may be that of another file
            self._open.pop(call.descriptor, None)

    def end(self, call: Call) -> None:
        """Do what a call has done when it ended."""
        if call.result >= 0 and call.name in _EFFECTS:
            _EFFECTS[call.name](self, call)

    def is_concerned(self, call: Call) -> bool:
        """Whether a call changes what is below the root, or makes it durable; asked when it begins."""
        if call.name in ("close", "sendmsg"):
            return False
        if call.name == "openat":
            parts = self._parts(call.texts[0])
            return parts is not None and (self._found(parts) is None or "O_TRUNC" in call.words[2])
        if call.words[0].isdecimal():
            assert call.name != "fallocate" or call.descriptor not in self._open, "only shared memory is allocated"
            return call.descriptor in self._open
        return any(self._parts(text) is not None for text in call.texts)

    # --- files

    def _opened(self, call: Call) -> None:
        parts, flags = self._parts(call.texts[0]), call.words[2].split("|")
        if parts is None:
            return
        node = self._found(parts)
        if node is None:
            node = File()
            self._name(parts, node, call.ended)
        elif "O_TRUNC" in flags and isinstance(node, File):
            node.change(Change(call.ended, 0))
        self._open[call.result] = node, any(each in flags for each in SYNCED_WRITES), "O_APPEND" in flags

    def _written(self, call: Call) -> None:
        opened = self._open.get(call.descriptor)
        if opened is not None and isinstance(opened[0], File):
            file, is_durable, _ = opened
            file.change(self.change_of(call, call.ended), is_durable=is_durable)

    def change_of(self, call: Call, ended: int) -> Change:
        """What a writing call does to its file."""
        file, _, appends = self._open[call.descriptor]
        assert isinstance(file, File)
        if call.name == "write":
            assert appends, "only what is appended has a place"
            return Change(ended, len(file.seen), call.content)
        return Change(ended, int(call.words[-2 if call.name == "pwritev2" else -1]), call.content)

    def _truncated(self, call: Call) -> None:
        opened = self._open.get(call.descriptor)
        if opened is not None and isinstance(opened[0], File):
            opened[0].change(Change(call.ended, int(call.words[1])))

    def _synced(self, call: Call) -> None:
        opened = self._open.get(call.descriptor)
        if opened is not None:
            opened[0].sync(call.began)

    def _all_synced(self, call: Call) -> None:
        if call.descriptor in self._open:
            for node in _everything(self._tree):
                node.sync(call.began)

    # --- names

    def _made(self, call: Call) -> None:
        parts = self._parts(call.texts[0])
        if parts:
            self._name(parts, Folder(), call.ended)

    def _removed(self, call: Call) -> None:
        parts = self._parts(call.texts[0])
        if parts:
            self._name(parts, None, call.ended)

    def _renamed(self, call: Call) -> None:
        source, target = (self._parts(text) for text in call.texts)
        if not source or not target:
            raise AssertionError("a name has come from outside, or gone there")
        act = next(self._acts)
        self._name(target, self._found(source), call.ended, act)
        self._name(source, None, call.ended, act)

    def _name(self, parts: Sequence[str], node: Node | None, ended: int, act: int | None = None) -> None:
        folder = self._found(parts[:-1])
        assert isinstance(folder, Folder), parts
        folder.name(Naming(ended, parts[-1], node, next(self._acts) if act is None else act))

    def _parts(self, path: bytes) -> tuple[str, ...] | None:
        """The names that lead from the root to a path; None for what is elsewhere, or not to be looked at."""
        given = Path(os.fsdecode(path))
        if not given.is_relative_to(self._root) or given.name.endswith("-shm"):
            return None
        return given.relative_to(self._root).parts

    def _found(self, parts: Sequence[str]) -> Node | None:
        node: Node | None = self._tree
        for part in parts:
            node = node.seen.get(part) if isinstance(node, Folder) else None
        return node

    # --- the cut

    def leave(self, target: Path, survival: "Survival", under_way: Sequence[Call] = ()) -> None:
        """Write what a power cut leaves to a new folder. `under_way` are the calls that had begun and not ended."""
        torn: dict[int, list[Change]] = {}
        for call in under_way:
            if call.name in ("pwrite64", "pwritev", "pwritev2", "write") and call.descriptor in self._open:
                file, *_ = self._open[call.descriptor]
                torn.setdefault(id(file), []).append(self.change_of(call, NEVER))
        _write(self._tree, target, survival, torn)


_EFFECTS: dict[str, Callable[[Disk, Call], None]] = {
    "openat": Disk._opened,
    "write": Disk._written,
    "pwrite64": Disk._written,
    "pwritev": Disk._written,
    "pwritev2": Disk._written,
    "ftruncate": Disk._truncated,
    "fsync": Disk._synced,
    "fdatasync": Disk._synced,
    "syncfs": Disk._all_synced,
    "mkdir": Disk._made,
    "unlink": Disk._removed,
    "rmdir": Disk._removed,
    "rename": Disk._renamed,
}


def unknown(log: Sequence[Call]) -> set[str]:
    """The calls that this model knows no effect of, of those that have one."""
    return {call.name for call in log} - _EFFECTS.keys() - {"close", "sendmsg", "fallocate"}


def _loaded(path: Path) -> Folder:
    """What is in a folder, all of it durable."""
    names: dict[str, Node] = {}
    for each in path.iterdir():
        if each.is_dir():
            names[each.name] = _loaded(each)
        elif not each.name.endswith("-shm"):
            content = each.read_bytes()
            names[each.name] = File(bytearray(content), bytearray(content))
    return Folder(names, dict(names))


def _everything(folder: Folder) -> Iterator[Node]:
    yield folder
    for node in {**folder.durable, **folder.seen}.values():
        if isinstance(node, Folder):
            yield from _everything(node)
        else:
            yield node


# --- what survives -----------------------------------------------------------------------------------------------


@dataclass
class Survival:
    """What of that which is not durable survives a cut: of names, and of the content of files."""

    names: "Callable[[Folder], dict[str, Node]]"
    content: Callable[[File, Sequence[Change]], bytes]


def _write(folder: Folder, target: Path, survival: Survival, torn: dict[int, list[Change]]) -> None:
    target.mkdir()
    for name, node in survival.names(folder).items():
        if isinstance(node, Folder):
            _write(node, target / name, survival, torn)
        else:
            (target / name).write_bytes(survival.content(node, torn.get(id(node), ())))


def nothing() -> Survival:
    """Only what is durable."""
    return Survival(lambda folder: folder.durable, lambda file, _: bytes(file.durable))


def everything() -> Survival:
    """All that had ended: what the death of the process alone leaves."""
    return Survival(lambda folder: folder.seen, lambda file, _: bytes(file.seen))


def names_only() -> Survival:
    """All names, and of their content what is durable: files that are empty."""
    return Survival(lambda folder: folder.seen, lambda file, _: bytes(file.durable))


def lengths_only() -> Survival:
    """All names and lengths, and of their content what is durable: files of zeros."""

    def content(file: File, _: Sequence[Change]) -> bytes:
        return bytes(file.durable[: len(file.seen)].ljust(len(file.seen), b"\0"))

    return Survival(lambda folder: folder.seen, content)


def anything(seed: int) -> Survival:
    """Some names, some sectors, as chance has it; of a call that was under way too."""
    chance = random.Random(seed)
    acts: dict[int, bool] = {}

    def names(folder: Folder) -> dict[str, Node]:
        left, refused = dict(folder.durable), set[str]()
        for naming in folder.pending:
            is_kept = acts.setdefault(naming.act, chance.random() < 0.5)
            if not is_kept:
                refused.add(naming.name)  # and so is what came of this name later
            elif naming.name not in refused:
                _rename(left, naming)
        return left

    def content(file: File, torn: Sequence[Change]) -> bytes:
        data = bytearray(file.durable)
        for change in (*file.pending, *torn):
            for piece in change.torn(chance):
                piece.apply(data)
        if chance.random() < 0.3:
            data.extend(bytes(max(0, len(file.seen) - len(data))))
        return bytes(data)

    return Survival(names, content)


SURVIVALS: dict[str, Callable[[int], Survival]] = {
    "nothing that is not synced": lambda _: nothing(),
    "all names, no content": lambda _: names_only(),
    "all names and lengths, content of zeros": lambda _: lengths_only(),
    "any names, any sectors": anything,
    "everything": lambda _: everything(),
}
"""What may survive of what is not synced, by name; each takes a seed."""
