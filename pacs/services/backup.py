"""`pacs backup` and `pacs restore`: a consistent copy of index and files, and an archive from it.

A backup is a folder: `files/` contains the instances under their keys in the archive, and `index-….db` a snapshot of
the index as an SQLite file, whatever the database of the archive is. `peers.toml` is a copy of that of the archive, if
there is one. `manifest.json` states that the backup is
complete. It is written last and replaces the earlier one: an interrupted backup leaves the earlier one valid.

Stored files never change, so that a later backup into the same folder copies new files only.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pacs import __version__
from pacs.dicom.levels import QueryLevel
from pacs.errors import ConfigurationError, InstanceMissing, InstanceUnreadable, StorageUnavailable, UndecodableDataSet
from pacs.files import digest
from pacs.files.copies import Copies, exclusive_folder
from pacs.files.disk import sync_file, sync_folder, write_text
from pacs.files.io_errors import Writing
from pacs.files.local import LocalFiles
from pacs.files.store import FolderStore
from pacs.index import index_diff, maintenance, schema, writer
from pacs.index.database import Index
from pacs.index.writer import StoredInstance
from pacs.services.completeness import require_complete
from pacs.services.parent_refresh import refresh
from pacs.services.progress import Progress, no_progress
from pacs.services.scratch_index import scratch_index
from pacs.services.stored_file import headers_of, read_stored_file
from pacs.support import private
from pacs.support.chunks import chunks

MANIFEST, FILES, PEERS = "manifest.json", "files", "peers.toml"
MARK = "this-is-a-pacs-backup"
FORMAT = 1

ATTEMPTS = 10
"""How often an instance is looked up that keeps being replaced."""

_WRITING = Writing("The backup cannot be written")
_RESTORING_PEERS = Writing("The peers of the backup cannot be restored")
_COPYING_INDEX = Writing("The index of the backup cannot be copied")


@dataclass(frozen=True, slots=True)
class Manifest:
    """The description of a complete backup: the content of `manifest.json`."""

    format: int
    made_by: str
    begun_at: str
    """The moment of the snapshot, in ISO 8601 and UTC."""
    finished_at: str
    instances: int
    size: int
    """Total size of the files in bytes."""
    index: str
    """The file name of the index."""
    index_sha256: str


@dataclass(slots=True)
class Copied:
    """The result of a backup or a restore."""

    instances: int = 0
    """Instances in the backup, or in the restored archive."""
    size: int = 0
    """Total size of their files in bytes."""
    copied: int = 0
    """Files copied; the others were there already."""
    deleted: int = 0
    """Instances deleted from the archive during the backup: not in the backup."""
    replaced: int = 0
    """Instances replaced during the backup: the newer one is in the backup."""
    pruned: int = 0
    """Removed files of earlier backups, which belong to no instance of this one."""
    failed: dict[str, str] = field(default_factory=dict)
    """Keys of files that are damaged or missing at the source, with the reason."""


class Backups:
    """Makes backups of an archive, and restores one from a backup. `peers_file` is a file that belongs to it."""

    def __init__(self, index: Index, files: FolderStore, peers_file: Path | None = None) -> None:
        self.index, self.files, self.peers_file = index, files, peers_file

    def make(self, dest: Path, *, link: bool = False, prune: bool = False, progress: Progress = no_progress) -> Copied:
        """Copy index and files into the folder `dest`, which is empty or contains an earlier backup.

        With `link` files are hard links instead of copies; `dest` has to be on the same file system. With `prune` files
        of earlier backups that this one does not need are removed. Raises ConfigurationError when `dest` is another
        folder, StorageUnavailable, IndexUnavailable.
        """
        require_complete(self.files)  # a backup has only the files that are in the index
        dest = dest.absolute()
        if self.files.contains(dest):
            raise ConfigurationError(f"{dest} is in files.url: expected another folder, preferably on another disk")
        self.files.replay_journals()  # for objects that are in a journal only
        with exclusive_folder(dest):
            _prepare(dest)
            with scratch_index(self.files.scratch_folder()) as snapshot, closing(Copies(dest / FILES)) as copies:
                run = _BackupRun(self, dest, snapshot, copies, link=link)
                return run.run(prune=prune, progress=progress)

    def restore(self, source: Path, progress: Progress = no_progress) -> Copied:
        """Restore a backup into this archive, which is empty or has an interrupted restore of the same backup.

        Each file is compared with its digest. Raises ConfigurationError when there is no complete backup or this
        archive is not empty or in use, StorageUnavailable, IndexUnavailable.
        """
        manifest = read_manifest(source)
        with self.files.maintenance_lock("pacs restore"):
            return self._restore(source, manifest, progress)

    def _restore(self, source: Path, manifest: Manifest, progress: Progress) -> Copied:
        mark = f"{manifest.index_sha256} {manifest.begun_at}\n"
        self._require_empty(mark)
        peers = self._peers_to_restore(source)
        self.files.begin_restore(mark)
        with self.files.scratch_folder() as own:
            copied = _copied_index(source / manifest.index, own / "index.db", manifest.index_sha256)
            with closing(Index(f"sqlite:///{copied}")) as snapshot, closing(self.files.copies()) as target:
                schema.upgrade(snapshot)
                with closing(Copies(source / FILES)) as files:
                    done = self._put_back(snapshot, files, target, progress)
                self._fill(snapshot, progress)
        if peers and self.peers_file is not None:
            with _RESTORING_PEERS:
                write_text(self.peers_file, peers)
        self.files.end_restore()
        return done

    def _require_empty(self, mark: str) -> None:
        if self.files.is_running():
            raise ConfigurationError("a server runs with this configuration: stop it first")
        if self.files.interrupted_restore() == mark:
            return
        images = maintenance.counts(self.index)[QueryLevel.IMAGE]
        if images or next(self.files.keys(), None) is not None:
            raise ConfigurationError(
                "the archive is not empty: set database.url and files.url to a new database and folder, "
                "or empty it with `pacs delete --all`"
            )

    def _peers_to_restore(self, source: Path) -> str:
        """Return the peers of a backup, '' if there are none. Raises ConfigurationError if the archive has others."""
        with _RESTORING_PEERS:
            saved = _text(source / PEERS)
            own = _text(self.peers_file) if self.peers_file is not None else ""
        if saved and own not in ("", saved):
            raise ConfigurationError(f"{self.peers_file} has other peers than the backup: move it away")
        return saved

    def _put_back(self, snapshot: Index, source: Copies, target: Copies, progress: Progress) -> Copied:
        """Copy all files of a backup, and remove instances whose file is damaged from the snapshot."""
        done = Copied()
        with progress("copying", maintenance.counts(snapshot)[QueryLevel.IMAGE]) as advance:
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
        """Copy the snapshot into the index of the archive."""
        with progress("indexing", maintenance.counts(snapshot)[QueryLevel.IMAGE]) as advance:
            for places in index_diff.batch_groups(snapshot):
                wanted = [each for place in places if (each := index_diff.read_batch(snapshot, place)) is not None]
                index_diff.correct(self.index, wanted, snapshot)
                advance(sum(len(each.images) for each in wanted))


class _BackupRun:
    """One run of `Backups.make`."""

    def __init__(self, backups: Backups, dest: Path, snapshot: Index, copies: Copies, *, link: bool) -> None:
        self._backups, self._dest, self._snapshot, self._copies = backups, dest, snapshot, copies
        self._link = link
        self._begun = datetime.now(UTC)
        self._done = Copied()
        self._missing: list[StoredInstance] = []
        """Instances of the snapshot whose file is no longer there."""
        self._deleted: list[str] = []
        self._former: list[StoredInstance] = []
        """Instances of the snapshot that newer ones have replaced in it."""

    def run(self, *, prune: bool, progress: Progress) -> Copied:
        total = maintenance.counts(self._backups.index)[QueryLevel.IMAGE]
        if not total:
            self._require_new_archive()
        with progress("copying the index", total) as advance:
            index_diff.copy(self._backups.index, self._snapshot, advance)
        with self._earlier() as earlier, progress("copying files", total) as advance:
            for page in maintenance.pages(self._snapshot):
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

    def _require_new_archive(self) -> None:
        """Raise ConfigurationError when the empty index is a lost one, or that of another archive than the backup's."""
        if next(self._backups.files.keys(), None) is not None:
            raise ConfigurationError("the index is empty, but there are files: run `pacs reindex` first")
        with self._earlier() as earlier:
            had = maintenance.counts(earlier)[QueryLevel.IMAGE] if earlier is not None else 0
        if had:
            raise ConfigurationError(
                f"this archive is empty, but {self._dest} is a backup of {had} instances: use the configuration of "
                "that archive, or another folder for a new backup"
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
        """Copy the newer file of an instance that was replaced since the snapshot, or note that it was deleted.

        The archive had the instance at all times, so that the backup has to have it.
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
                arrival = read_stored_file(self._backups.files, key, verify=False)
                self._done.copied += self._put(now, is_trusted=False)
            except InstanceMissing as error:
                why = error.comment
                if key == instance.file_key:
                    break
            except (InstanceUnreadable, UndecodableDataSet) as error:
                why = error.comment
                break
            else:
                headers = headers_of(self._backups.files)
                self._former.append(writer.replace(self._snapshot, arrival, instance.file_key, headers))
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
        self._copies.link(instance.file_key, files.link)
        return True

    @contextmanager
    def _earlier(self) -> Iterator[Index | None]:
        """Yield the index of the earlier backup: its files are durable and were compared with their digests."""
        try:
            manifest = read_manifest(self._dest)
        except ConfigurationError:
            yield None
            return
        with self._backups.files.scratch_folder() as own:
            try:
                path = _copied_index(self._dest / manifest.index, own / "index.db", manifest.index_sha256)
            except ConfigurationError:  # it is damaged
                yield None
                return
            with closing(Index(f"sqlite:///{path}")) as index:
                schema.upgrade(index)
                yield index

    def _finish(self) -> None:
        """Write the snapshot and the manifest, and remove earlier snapshots."""
        name = f"index-{self._begun:%Y%m%dT%H%M%S%f}.db"
        if not self._snapshot.settle():
            raise StorageUnavailable("The index of the backup cannot be written completely")
        source = Path(str(self._snapshot.url.database))
        with _WRITING:
            self._copy_peers()
            private.make_file(self._dest / name)
            shutil.copyfile(source, self._dest / name)
            sync_file(self._dest / name)
            sync_folder(self._dest)
            sha256 = _sha256(self._dest / name)
        manifest = Manifest(
            format=FORMAT,
            made_by=f"pacs {__version__}",
            begun_at=self._begun.isoformat(),
            finished_at=datetime.now(UTC).isoformat(),
            instances=self._done.instances,
            size=self._done.size,
            index=name,
            index_sha256=sha256,
        )
        with _WRITING:
            write_text(self._dest / MANIFEST, json.dumps(asdict(manifest), indent=2) + "\n")
            for path in self._dest.glob("index-*.db"):
                if path.name != name:
                    path.unlink()

    def _copy_peers(self) -> None:
        """Copy the peers of the archive, or remove the former copy if it has none any more. Raises OSError."""
        own = self._backups.peers_file
        if peers := _text(own) if own is not None else "":
            write_text(self._dest / PEERS, peers)
        else:
            (self._dest / PEERS).unlink(missing_ok=True)

    def _prune(self) -> None:
        """Remove the files of earlier backups that belong to no instance of this one."""
        for batch in chunks(self._copies.keys(), maintenance.PAGE):
            for each in writer.unknown(self._snapshot, batch):
                self._copies.delete(each)
                self._done.pruned += 1


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of the backup in a folder. Raises ConfigurationError when there is no complete backup."""
    try:
        said: dict[str, Any] = json.loads((folder / MANIFEST).read_text("utf-8"))
        if said["format"] != FORMAT:
            raise ConfigurationError(
                f"the backup in {folder} was made by {said['made_by']}: restore it with that version or a newer one"
            )
        return Manifest(**said)
    except FileNotFoundError as error:
        why = f"{folder} contains no complete backup: expected a folder written by `pacs backup`, with {MANIFEST}"
        if (folder / MARK).exists():
            why = f"the backup in {folder} was interrupted: run `pacs backup` again to complete it"
        raise ConfigurationError(why) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = (
            f"{folder / MANIFEST} cannot be read or is not a manifest: check its permissions, or restore another backup"
        )
        raise ConfigurationError(why) from error


def _prepare(dest: Path) -> None:
    """Mark an empty folder as one for backups. Raises ConfigurationError when it has other content."""
    with _WRITING:
        if not (dest / MARK).exists():
            if any(dest.iterdir()):
                raise ConfigurationError(
                    f"{dest} is neither empty nor a backup: expected a new folder or an earlier backup"
                )
            write_text(dest / MARK, "Made by `pacs backup`; complete with a manifest.json. See `pacs restore`.\n")
        for path in dest.glob(".*.new"):  # of an interrupted backup
            path.unlink()


def _text(path: Path) -> str:
    """Return the text of a file, '' if there is none. Raises OSError."""
    with suppress(FileNotFoundError):
        return path.read_text("utf-8")
    return ""


def _instances(index: Index) -> Iterator[StoredInstance]:
    return (each for page in maintenance.pages(index) for each in page)


def _put(instance: StoredInstance, pieces: Any, target: Copies, *, is_trusted: bool) -> bool:
    """Copy the file of an instance unless there is a good copy; return whether it was copied.

    A trusted copy is not compared with its digest. Raises InstanceUnreadable, StorageUnavailable.
    """
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
    """Remove the instances with these files from an index, and return them."""
    return [each for chunk in chunks(keys, maintenance.PAGE) for each in maintenance.forget(index, chunk)]


# --- files --------------------------------------------------------------------------------------------------------


def _copied_index(source: Path, target: Path, sha256: str) -> Path:
    """Copy the index of a backup and return the copy. Raises ConfigurationError when it is damaged."""
    with _COPYING_INDEX:
        with suppress(FileNotFoundError):
            private.make_file(target)
            shutil.copyfile(source, target)
        if target.exists() and _sha256(target) == sha256:
            return target
    raise ConfigurationError(
        f"{source} is damaged: copy the folder {FILES} beside it to files.url, and run `pacs reindex`"
    )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
