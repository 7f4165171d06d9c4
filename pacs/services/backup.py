"""`pacs backup` and `pacs restore`: a consistent copy of index and files, and an archive from it.

A backup is a folder: `files/` has the instances under the keys they have in the archive, `index-….db` the index as one
moment had it, an SQLite file whatever database it was copied from, and `manifest.json` says that all this is complete.
It is written last and put in the place of the one before: a backup that is cut off leaves the earlier one as it was.

Files never change, so that a later backup into the same folder copies only what is new.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from pacs import __version__
from pacs.dicom.levels import QueryLevel
from pacs.errors import ConfigurationError, InstanceMissing, InstanceUnreadable, StorageUnavailable, UndecodableDataSet
from pacs.files import digest
from pacs.files.copies import Copies, alone_in
from pacs.files.disk import sync_folder
from pacs.files.local import LocalFiles
from pacs.files.process_lock import held_folders, is_held
from pacs.files.store import FileStore
from pacs.index import index_diff, schema, upkeep, writer
from pacs.index.database import Index
from pacs.index.writer import StoredInstance
from pacs.services.parent_refresh import refresh
from pacs.services.progress import Progress, silent
from pacs.services.scratch_index import WORK, scratch_folder, scratch_index
from pacs.services.stored_file import arrival_of

MANIFEST, FILES = "manifest.json", "files"
MARK = "this-is-a-pacs-backup"
FORMAT = 1

ATTEMPTS = 10
"""How often an instance is looked up that is replaced again and again."""

RESTORING = "restoring"
"""The file beside the files that says which backup is being restored into them."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a complete backup says of itself."""

    format: int
    made_by: str
    begun_at: str
    """The moment of which the backup is, in ISO 8601 and UTC."""
    finished_at: str
    instances: int
    size: int
    """Bytes of the files."""
    index: str
    """The name of the index's file."""
    index_sha256: str


@dataclass(slots=True)
class Copied:
    """What was copied into a backup, or out of one."""

    instances: int = 0
    """In the backup, or in the archive, now."""
    size: int = 0
    """Bytes of their files."""
    copied: int = 0
    """Those that were not there yet."""
    deleted: int = 0
    """Instances that were deleted from the archive meanwhile: not in the backup."""
    replaced: int = 0
    """Instances that were replaced meanwhile: the newer one is in the backup."""
    pruned: int = 0
    """Files of earlier backups that were removed, because no instance of this one has them."""
    failed: dict[str, str] = field(default_factory=dict)
    """Files that are damaged or missing where they were to be copied from, with why: by key."""


class Backups:
    """Makes backups of one archive, and an archive of a backup. `folder` is that of its files."""

    def __init__(self, index: Index, files: FileStore, folder: Path) -> None:
        self._index, self._files, self._folder = index, files, folder

    def make(self, dest: Path, *, link: bool = False, prune: bool = False, progress: Progress = silent) -> Copied:
        """Copy index and files into the folder `dest`, which is empty or has an earlier backup.

        With `link` files are linked instead of copied, where `dest` is on the same file system. With `prune` files are
        removed that the archive has no more. Raises ConfigurationError when `dest` is something else,
        StorageUnavailable, IndexUnavailable.
        """
        dest = dest.absolute()
        if self._folder.absolute() in (dest, *dest.parents):
            raise ConfigurationError(
                f"{dest} is where the files are: expected a folder of its own, best on another disk"
            )
        self._files.replay()  # what is durable in a journal alone
        with alone_in(dest):
            _begin(dest)
            with scratch_index(self._folder / WORK) as snapshot, closing(Copies(dest / FILES)) as copies:
                making = _Making(self, dest, snapshot, copies, link=link)
                return making.run(prune=prune, progress=progress)

    def restore(self, source: Path, progress: Progress = silent) -> Copied:
        """Put what a backup has into this archive, which is empty, or was left by a restore that was cut off.

        Every file is compared with its digest. Raises ConfigurationError when there is no complete backup or this
        archive is not empty or in use, StorageUnavailable, IndexUnavailable.
        """
        manifest = read_manifest(source)
        with self._files.alone("pacs restore"):
            return self._restore(source, manifest, progress)

    def _restore(self, source: Path, manifest: Manifest, progress: Progress) -> Copied:
        mark = f"{manifest.index_sha256} {manifest.begun_at}\n"
        self._require_empty(mark)
        _write(self._folder / RESTORING, mark)
        with scratch_folder(self._folder / WORK) as own:
            copied = _copied_index(source / manifest.index, own / "index.db", manifest.index_sha256)
            with closing(Index(f"sqlite:///{copied}")) as snapshot, closing(Copies(self._folder)) as target:
                schema.upgrade(snapshot)
                with closing(Copies(source / FILES)) as files:
                    done = self._put_back(snapshot, files, target, progress)
                self._fill(snapshot, progress)
        (self._folder / RESTORING).unlink()
        sync_folder(self._folder)
        return done

    @property
    def index(self) -> Index:
        """The index of the archive."""
        return self._index

    @property
    def files(self) -> FileStore:
        """The files of the archive."""
        return self._files

    @property
    def folder(self) -> Path:
        """Where the files of the archive are."""
        return self._folder

    def _require_empty(self, mark: str) -> None:
        if any(map(is_held, held_folders(self._folder / "running"))):
            raise ConfigurationError("a server runs with this configuration: expected it to be stopped first")
        with suppress(FileNotFoundError):
            if (self._folder / RESTORING).read_text("utf-8") == mark:
                return
        images = upkeep.counts(self._index)[QueryLevel.IMAGE]
        if images or next(self._files.keys(), None) is not None:
            raise ConfigurationError(
                "the archive is not empty: expected a new database.url and a new files.url; "
                "`pacs delete --all` empties those there are"
            )

    def _put_back(self, snapshot: Index, source: Copies, target: Copies, progress: Progress) -> Copied:
        """Copy all files of a backup; what is damaged there is taken out of the snapshot."""
        done = Copied()
        with progress("copying", upkeep.counts(snapshot)[QueryLevel.IMAGE]) as advance:
            for instance in _instances(snapshot):
                try:
                    done.copied += _put(instance, source.pieces, target, is_trusted=False)
                except InstanceUnreadable as error:
                    done.failed[instance.file_key] = error.comment
                else:
                    done.instances, done.size = done.instances + 1, done.size + instance.size
                advance(1)
        _forget(snapshot, done.failed)
        target.sync()
        return done

    def _fill(self, snapshot: Index, progress: Progress) -> None:
        with progress("indexing", upkeep.counts(snapshot)[QueryLevel.IMAGE]) as advance:
            for places in index_diff.batch_groups(snapshot):
                wanted = [each for place in places if (each := index_diff.read_batch(snapshot, place)) is not None]
                index_diff.correct(self._index, wanted, snapshot)
                advance(sum(len(each.images) for each in wanted))


class _Making:
    """One backup on its way."""

    def __init__(self, backups: Backups, dest: Path, snapshot: Index, copies: Copies, *, link: bool) -> None:
        self._backups, self._dest, self._snapshot, self._copies = backups, dest, snapshot, copies
        self._link = link
        self._begun = datetime.now(UTC)
        self._done = Copied()
        self._missing: list[StoredInstance] = []
        """Instances of the snapshot whose file was not there any more when it was to be copied."""
        self._deleted: list[str] = []
        self._former: list[StoredInstance] = []
        """What the snapshot had in the place of the newer instances that it has now."""

    def run(self, *, prune: bool, progress: Progress) -> Copied:
        total = upkeep.counts(self._backups.index)[QueryLevel.IMAGE]
        if not total:
            self._require_meant()
        with progress("copying the index", total) as advance:
            index_diff.copy(self._backups.index, self._snapshot, advance)
        with self._earlier() as earlier, progress("copying files", total) as advance:
            for page in upkeep.pages(self._snapshot):
                fresh = writer.unknown(earlier, [each.file_key for each in page]) if earlier is not None else None
                for instance in page:
                    self._copy(instance, is_trusted=fresh is not None and instance.file_key not in fresh)
                    advance(1)
        for instance in self._missing:
            self._follow(instance)
        gone = _forget(self._snapshot, (*self._done.failed, *self._deleted))
        refresh(self._snapshot, LocalFiles(self._dest / FILES), [*self._former, *gone])
        self._copies.sync()
        self._finish()
        if prune:
            self._prune()
        return self._done

    def _require_meant(self) -> None:
        """See that an empty index is no lost one, and no other archive's. Raises ConfigurationError."""
        if next(self._backups.files.keys(), None) is not None:
            raise ConfigurationError(
                "the index has no instance, though there are files: expected `pacs reindex` to make it anew before"
            )
        with self._earlier() as earlier:
            had = upkeep.counts(earlier)[QueryLevel.IMAGE] if earlier is not None else 0
        if had:
            raise ConfigurationError(
                f"this archive has no instance, but {self._dest} is a backup of {had}: expected the configuration of "
                "that archive, or another folder to begin anew"
            )

    def _copy(self, instance: StoredInstance, *, is_trusted: bool) -> None:
        try:
            self._done.copied += self._put(instance, is_trusted=is_trusted)
        except InstanceMissing:
            self._missing.append(instance)
        except InstanceUnreadable as error:
            self._done.failed[instance.file_key] = error.comment
        else:
            self._count(instance)

    def _count(self, instance: StoredInstance) -> None:
        self._done.instances += 1
        self._done.size += instance.size

    def _follow(self, instance: StoredInstance) -> None:
        """Take the newer one of an instance that was replaced since the snapshot was made; or see that it was deleted.

        The archive had it at all times: a backup without it would not be one.
        """
        key, why = instance.file_key, ""
        for _ in range(ATTEMPTS):
            now = writer.find(self._backups.index, instance.sop_instance_uid)
            if now is None:
                self._deleted.append(instance.file_key)
                self._done.deleted += 1
                return
            key = now.file_key
            try:
                arrival = arrival_of(self._backups.files, key, verify=False)
                self._done.copied += self._put(now, is_trusted=False)
            except InstanceMissing as error:
                why = error.comment
                if key == instance.file_key:
                    break
            except (InstanceUnreadable, UndecodableDataSet) as error:
                why = error.comment
                break
            else:
                self._former.append(writer.replace(self._snapshot, arrival))
                self._done.replaced += 1
                self._count(now)
                return
        self._done.failed[key] = why
        self._deleted.append(instance.file_key)

    def _put(self, instance: StoredInstance, *, is_trusted: bool) -> bool:
        files = self._backups.files
        if not self._link or self._copies.has(instance.file_key, instance.size):
            return _put(instance, files.pieces, self._copies, is_trusted=is_trusted)
        digest.require(instance.digest, files.pieces(instance.file_key, instance.size, instance.data_offset))
        self._copies.link(instance.file_key, self._backups.folder / instance.file_key)
        return True

    @contextmanager
    def _earlier(self) -> Iterator[Index | None]:
        """The index of the earlier backup: what it names was durable, and has been compared with its digest."""
        try:
            manifest = read_manifest(self._dest)
        except ConfigurationError:
            yield None
            return
        with scratch_folder(self._backups.folder / WORK) as own:
            try:
                path = _copied_index(self._dest / manifest.index, own / "index.db", manifest.index_sha256)
            except ConfigurationError:  # it is damaged, and of no use
                yield None
                return
            with closing(Index(f"sqlite:///{path}")) as index:
                schema.upgrade(index)
                yield index

    def _finish(self) -> None:
        """Put the index beside the files, and say that this is a backup."""
        name = f"index-{self._begun:%Y%m%dT%H%M%S%f}.db"
        if not self._snapshot.settle():
            raise StorageUnavailable("The index of the backup cannot be written to its end")
        source = Path(str(self._snapshot.url.database))
        with _writing():
            shutil.copyfile(source, self._dest / name)
            _sync(self._dest / name)
            sync_folder(self._dest)
        manifest = Manifest(
            format=FORMAT,
            made_by=f"pacs {__version__}",
            begun_at=self._begun.isoformat(),
            finished_at=datetime.now(UTC).isoformat(),
            instances=self._done.instances,
            size=self._done.size,
            index=name,
            index_sha256=_sha256(self._dest / name),
        )
        _write(self._dest / MANIFEST, json.dumps(asdict(manifest), indent=2) + "\n")
        with _writing():
            for path in self._dest.glob("index-*.db"):
                if path.name != name:
                    path.unlink()

    def _prune(self) -> None:
        """Remove the files that this backup does not name."""
        keys = self._copies.keys()
        while batch := list(islice(keys, upkeep.PAGE)):
            for each in writer.unknown(self._snapshot, batch):
                self._copies.delete(each)
                self._done.pruned += 1


def read_manifest(folder: Path) -> Manifest:
    """What the backup in a folder says of itself. Raises ConfigurationError when there is no complete one."""
    try:
        said: dict[str, Any] = json.loads((folder / MANIFEST).read_text("utf-8"))
        if said["format"] != FORMAT:
            raise ConfigurationError(
                f"the backup in {folder} was made by {said['made_by']}: expected that or a newer pacs"
            )
        return Manifest(**said)
    except FileNotFoundError as error:
        why = f"no complete backup is in {folder}: expected a folder with {MANIFEST}"
        if (folder / MARK).exists():
            why = f"the backup in {folder} was cut off: run `pacs backup` again to complete it"
        raise ConfigurationError(why) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{folder / MANIFEST} cannot be read as one of a backup") from error


def _begin(dest: Path) -> None:
    """See that a folder is empty, or one for a backup."""
    with _writing():
        if not (dest / MARK).exists():
            if any(dest.iterdir()):
                raise ConfigurationError(
                    f"{dest} is not empty and no backup: expected a new folder or an earlier backup"
                )
            _write(dest / MARK, "Made by `pacs backup`, complete when there is a manifest.json; see `pacs restore`.\n")
        for path in dest.glob(".*.new"):  # of a backup that was cut off
            path.unlink()


def _instances(index: Index) -> Iterator[StoredInstance]:
    return (each for page in upkeep.pages(index) for each in page)


def _put(instance: StoredInstance, pieces: Any, target: Copies, *, is_trusted: bool) -> bool:
    """Have a copy of an instance's file; whether it had to be copied. Raises InstanceUnreadable, StorageUnavailable."""
    key, size = instance.file_key, instance.size
    if target.has(key, size):
        if is_trusted:
            return False
        with suppress(InstanceUnreadable):
            digest.require(instance.digest, target.pieces(key, size, instance.data_offset))
            return False
    target.put(key, pieces(key, size, 0), instance.data_offset, instance.digest)
    return True


def _forget(index: Index, keys: Iterable[str]) -> list[StoredInstance]:
    """Forget the instances that have these files; which there were."""
    chosen, gone = list(keys), []
    for start in range(0, len(chosen), upkeep.PAGE):
        gone += upkeep.forget(index, chosen[start : start + upkeep.PAGE])
    return gone


# --- files --------------------------------------------------------------------------------------------------------


def _copied_index(source: Path, target: Path, sha256: str) -> Path:
    """A copy of the index of a backup, to be worked with. Raises ConfigurationError when it is not what it was."""
    try:
        shutil.copyfile(source, target)
    except FileNotFoundError:
        target.unlink(missing_ok=True)
    except OSError as error:
        raise StorageUnavailable(f"The index of the backup cannot be copied ({error.strerror})") from error
    if not target.exists() or _sha256(target) != sha256:
        raise ConfigurationError(
            f"{source} is damaged: copy the folder {FILES} beside it to where files.url is, and run `pacs reindex`"
        )
    return target


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, text: str) -> None:
    """Write a small file, whole and durable, over an older one. Raises StorageUnavailable."""
    with _writing():
        new = path.with_name(f".{path.name}.new")
        new.write_text(text, "utf-8")
        _sync(new)
        os.replace(new, path)
        sync_folder(path.parent)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageUnavailable(f"The backup cannot be written ({error.strerror})") from error
