"""A model of a disk and of power cuts: it repeats the file operations of a trace and keeps durable data apart.

The model assumes what POSIX promises and no more:

- Written bytes are durable when an fsync, fdatasync or syncfs that began after the write has ended; in a file opened
  with O_DSYNC or O_SYNC, when the write has ended. Before that, any sectors of 512 bytes may be on the disk, in any
  order, or none. A sector is never torn, and a write damages no other sector (SQLite assumes both as well).
- A name in a folder (of a file or folder that was made, renamed or removed) is durable when an fsync of *that* folder
  or a syncfs has ended. An fsync of a file does not sync its name, nor does an fsync of a folder sync its own name.
  Before that, each change may be on the disk or not, changes of one name in their order. Both sides of a rename come
  together, unless one was made durable alone.
- The length of a file may be on the disk before its content, which then reads as zeros.
- The order of operations of two threads is the one that strace saw. One that had not ended at the cut may have been
  done completely, partly or not at all.
- Durable data stays durable: disks that lose confirmed data are not modelled, nor are shared memory (SQLite's -shm,
  which SQLite makes again) and anything outside the recorded folder.
"""

import itertools
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.trace import FORKS, NEVER, Call, Descriptor

SECTOR = 512

SYNCED_WRITES = ("O_DSYNC", "O_SYNC")


@dataclass(slots=True)
class Change:
    """A change of a file that is not durable yet: content at a position, or with None a new length."""

    ended: int
    place: int
    content: bytes | None = None

    def apply(self, data: bytearray) -> None:
        """Apply it to the content of a file."""
        if self.content is None:
            del data[self.place :]
            data.extend(bytes(self.place - len(data)))
        else:
            data.extend(bytes(max(0, self.place - len(data))))
            data[self.place : self.place + len(self.content)] = self.content

    def torn(self, chance: random.Random) -> "Iterator[Change]":
        """Yield some of its sectors."""
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
    """A file: its content for processes, its durable content, and the changes in between."""

    seen: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    pending: list[Change] = field(default_factory=list)

    def change(self, change: Change, *, is_durable: bool = False) -> None:
        """Change the file."""
        change.apply(self.seen)
        if is_durable:
            change.apply(self.durable)
        else:
            self.pending.append(change)

    def sync(self, began: int) -> None:
        """Make changes durable that had ended before a sync began."""
        for change in self.pending:
            if change.ended <= began:
                change.apply(self.durable)
        self.pending = [each for each in self.pending if each.ended > began]


@dataclass(slots=True)
class Naming:
    """A change of a name that is not durable yet. Both changes of a rename have the same `act`."""

    ended: int
    name: str
    node: "Node | None"
    act: int


@dataclass(eq=False, slots=True)
class Folder:
    """A folder: its names for processes, its durable names, and the changes in between."""

    seen: "dict[str, Node]" = field(default_factory=dict)
    durable: "dict[str, Node]" = field(default_factory=dict)
    pending: list[Naming] = field(default_factory=list)

    def name(self, naming: Naming) -> None:
        """Change a name."""
        _rename(self.seen, naming)
        self.pending.append(naming)

    def sync(self, began: int) -> None:
        """Make changes durable that had ended before a sync began."""
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
    """The files below `root` as they are now; the calls of a trace are applied to them one after the other."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._tree = _loaded(root) if root.exists() else Folder()
        self._open: dict[Descriptor, tuple[Node, bool, bool]] = {}
        """By descriptor: the open file, whether its writes are synced, and whether they append."""
        self._acts = itertools.count()

    def begin(self, call: Call) -> None:
        """Apply the effect of a call when it begins."""
        if call.name == "close":  # from now on its number may be that of another file
            self._open.pop(call.descriptor, None)
        if call.name == "exit":
            self._open.clear()
        if call.is_fork:
            theirs = {number: opened for (process, number), opened in self._open.items() if process == call.process}
            self._open |= {(call.result, number): opened for number, opened in theirs.items()}

    def end(self, call: Call) -> None:
        """Apply the effect of a call when it ends."""
        if call.result >= 0 and call.name in _EFFECTS:
            _EFFECTS[call.name](self, call)

    def is_concerned(self, call: Call) -> bool:
        """Whether a call that begins will change files below the root, or make them durable."""
        if call.name in ("close", "exit", "sendmsg", *FORKS):
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
        appends = "O_APPEND" in flags or {"O_WRONLY", "O_TRUNC"} <= set(flags)  # from the start of an empty file on
        self._open[call.opened] = node, any(each in flags for each in SYNCED_WRITES), appends

    def _written(self, call: Call) -> None:
        opened = self._open.get(call.descriptor)
        if opened is not None and isinstance(opened[0], File):
            file, is_durable, _ = opened
            file.change(self.change_of(call, call.ended), is_durable=is_durable)

    def change_of(self, call: Call, ended: int) -> Change:
        """Return the change of a writing call."""
        file, _, appends = self._open[call.descriptor]
        assert isinstance(file, File)
        if call.name == "write":
            assert appends, "the position of a write is known in an appending file only"
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
            raise AssertionError("a rename from or to a path outside of the root")
        act = next(self._acts)
        self._name(target, self._found(source), call.ended, act)
        self._name(source, None, call.ended, act)

    def _name(self, parts: Sequence[str], node: Node | None, ended: int, act: int | None = None) -> None:
        folder = self._found(parts[:-1])
        assert isinstance(folder, Folder), parts
        folder.name(Naming(ended, parts[-1], node, next(self._acts) if act is None else act))

    def _parts(self, path: bytes) -> tuple[str, ...] | None:
        """Return the parts of a path below the root; None for other paths and for shared memory."""
        given = Path(os.fsdecode(path))
        if not given.is_relative_to(self._root) or given.name.endswith("-shm"):
            return None
        return given.relative_to(self._root).parts

    def _found(self, parts: Sequence[str]) -> Node | None:
        node: Node | None = self._tree
        for part in parts:
            node = node.seen.get(part) if isinstance(node, Folder) else None
        return node

    # --- power cut

    def leave(self, target: Path, survival: "Survival", under_way: Sequence[Call] = ()) -> None:
        """Write the disk after a power cut to a new folder. `under_way` are calls that had begun and not ended."""
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
    """Return the calls in a log whose effect this model does not know, but for names in shared memory."""
    shared = {call.began for call in log if call.texts and all(each.startswith(b"/dev/shm/") for each in call.texts)}
    names = {call.name for call in log if call.began not in shared}
    return names - _EFFECTS.keys() - {"close", "exit", "sendmsg", "fallocate", *FORKS}


def _loaded(path: Path) -> Folder:
    """Load a folder; all of it is durable."""
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


# --- survival ----------------------------------------------------------------------------------------------------


@dataclass
class Survival:
    """Which unsynced names and content survive a cut."""

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
    """Durable data only."""
    return Survival(lambda folder: folder.durable, lambda file, _: bytes(file.durable))


def everything() -> Survival:
    """All completed calls, as after a kill."""
    return Survival(lambda folder: folder.seen, lambda file, _: bytes(file.seen))


def names_only() -> Survival:
    """All names, with durable content only: new files are empty."""
    return Survival(lambda folder: folder.seen, lambda file, _: bytes(file.durable))


def lengths_only() -> Survival:
    """All names and lengths, with durable content only: new files have zeros."""

    def content(file: File, _: Sequence[Change]) -> bytes:
        return bytes(file.durable[: len(file.seen)].ljust(len(file.seen), b"\0"))

    return Survival(lambda folder: folder.seen, content)


def anything(seed: int) -> Survival:
    """Random names and sectors, also of calls that were under way."""
    chance = random.Random(seed)
    acts: dict[int, bool] = {}

    def names(folder: Folder) -> dict[str, Node]:
        left, refused = dict(folder.durable), set[str]()
        for naming in folder.pending:
            is_kept = acts.setdefault(naming.act, chance.random() < 0.5)
            if not is_kept:
                refused.add(naming.name)  # and later changes of this name
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
    "none": lambda _: nothing(),
    "all names, no content": lambda _: names_only(),
    "all names and lengths, content zeros": lambda _: lengths_only(),
    "any names, any sectors": anything,
    "everything": lambda _: everything(),
}
"""The kinds of survival by name, each made from a seed."""
