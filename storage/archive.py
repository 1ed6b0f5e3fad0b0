"""The storage face: what both doors of the node, DICOM and web, do with what it keeps."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from dcmpress.storage.blobstore import FolderBlobStore
from dcmpress.storage.catalog.attributes import ATTRIBUTES
from dcmpress.storage.catalog.catalog import Catalog
from dcmpress.storage.catalog.query import Query
from dcmpress.storage.catalog.recording import OnConflict, Outcome, Recorded
from dcmpress.storage.catalog.search import Located, Match
from dcmpress.storage.catalog.settling import SpooledInstance
from dcmpress.storage.confirmers import Confirmers
from dcmpress.storage.disk_cache import DiskCache
from dcmpress.storage.elements import Buffer
from dcmpress.storage.errors import ConflictError, MalformedError, MismatchError, MissingError, StorageError
from dcmpress.storage.folders import make_folder
from dcmpress.storage.leading import Leading, read_leading
from dcmpress.storage.part10 import FileMeta
from dcmpress.storage.received import Received
from dcmpress.storage.retrieve import ChooseSyntax, Failed, Outgoing, Retriever
from dcmpress.storage.scratch import is_held, sweep
from dcmpress.storage.spool import Sender, Spool, SpoolEntry, SpoolWriter
from dcmpress.storage.targets import candidates

OnUnreadable = Literal["keep", "refuse"]

WANTED = {attribute.tag: attribute for attribute in ATTRIBUTES if attribute.origin == "data set"}

LARGEST_LEADING = 1 << 26
"""Bytes of a data set that are searched for attributes when the spool writer's window does not reach."""

ENTERED_TOGETHER = 200
"""Spool files that a start without a catalog enters in one transaction."""

_MOVES = 3
"""Times that a file is looked for again because the catalog has moved it meanwhile."""


@dataclass(frozen=True)
class ArchiveSettings:
    """Where things lie, and what happens to the unusual."""

    root: Path
    catalog_url: str = ""
    """SQLAlchemy URL; empty: `catalog.sqlite` under `root`."""
    blob_folder: Path | None = None
    """None: `blobs` under `root`."""
    reserve: int = 0
    """Free bytes that must remain on the spool's disk; nothing is accepted under that."""
    on_conflict: OnConflict = "keep-both"
    on_unreadable: OnUnreadable = "keep"
    cache_bytes: int = 0
    """Of decoded data sets that are kept in memory for the next retrieval; 0: none."""
    disk_cache_bytes: int = 0
    """Of spool files that stay, for retrieval, when their instances lie in blobs; 0: none."""


@dataclass(frozen=True)
class Receipt:
    """What became of an instance that is safe now."""

    outcome: str
    """A value of `Outcome`."""
    problem: str
    """Why somebody should look at the instance, or ""."""


class Incoming:
    """An instance on its way in: `write` its data set, then `Archive.commit`, or else `abandon` it."""

    def __init__(self, writer: SpoolWriter) -> None:
        self.writer = writer
        self.write: Callable[[Buffer], None] = writer.write

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self.writer.size

    def abandon(self) -> None:
        """Keep nothing of it. Can be called twice, but not after a commit."""
        self.writer.abandon()


class Archive:
    """Spool, blobs and catalog of one node, as one thing. Threads share it; each process opens its own."""

    def __init__(self, settings: ArchiveSettings) -> None:
        self.settings = settings
        make_folder(settings.root)
        self.spool = Spool(settings.root / "spool", settings.reserve)
        self.blobs = FolderBlobStore(settings.blob_folder or settings.root / "blobs")
        self.catalog = Catalog.open(settings.catalog_url or f"sqlite:///{settings.root / 'catalog.sqlite'}")
        self.confirmers = Confirmers()
        """Processes that decode what other nodes send."""
        self.disk_cache = DiskCache(settings.root / "cache", settings.disk_cache_bytes, settings.reserve)
        self.spool.make_room = self.disk_cache.make_room
        self.temporary = settings.root / "tmp"
        """Folder of files that nothing relies on."""
        self.retriever = Retriever(
            self.spool,
            self.blobs,
            self.temporary,
            self._where_now,
            settings.cache_bytes,
            self.disk_cache,
        )

    def close(self) -> None:
        """Let go of everything."""
        self.retriever.close()
        self.confirmers.close()
        self.spool.close()
        self.catalog.close()

    # On the way in

    def begin(self, meta: FileMeta, sender: Sender) -> Incoming:
        """Begin to receive an instance.

        Raises
        ------
        NoSpaceError
            If the disk has no room to spare.
        """
        return Incoming(self.spool.begin(meta, sender))

    def commit(self, incoming: Incoming) -> Receipt:
        """Make a received instance safe and findable. When this returns it survives a power cut.

        Raises
        ------
        MismatchError
            If the data set names another SOP class or instance than the request.
        MalformedError
            If its leading elements cannot be read and such instances are refused.
        ConflictError
            If another data set with its UID is kept and may not be replaced.
        NoSpaceError
            If the disk filled up.
        StorageError, OSError
            Whatever else goes wrong. Nothing of the instance is kept in any of these cases.
        """
        writer = incoming.writer
        writer.end()  # the disk works while the index row is prepared
        leading = self._read_leading(writer)
        meta = writer.meta
        _check_uid("SOP Class UID", leading.sop_class_uid, meta.sop_class_uid)
        _check_uid("SOP Instance UID", leading.sop_instance_uid, meta.sop_instance_uid)
        if leading.problem and self.settings.on_unreadable == "refuse":
            raise MalformedError(leading.problem)
        return self._record_or_drop(writer.finish(), leading)

    def enter(self, entry: SpoolEntry) -> Receipt:
        """Enter a complete spool file that another process of this node has written.

        Raises
        ------
        ConflictError, StorageError, OSError
            As `commit` does.
        """
        return self._record_or_drop(entry, self._read_entry(entry))

    def _record_or_drop(self, entry: SpoolEntry, leading: Leading) -> Receipt:
        """Record what is not acknowledged yet; keep nothing of it if that fails."""
        try:
            return self._record(entry, leading)
        except BaseException:
            # A commit whose answer got lost has happened all the same: the catalog relies on the file.
            if not self._is_relied_on(entry):
                self.spool.remove(entry.name)
            raise

    def _is_relied_on(self, entry: SpoolEntry) -> bool:
        try:
            return bool(self.catalog.in_spool(entry.name))
        except StorageError:
            return False

    def _record(self, entry: SpoolEntry, leading: Leading) -> Receipt:
        return self._recorded(entry, leading, self._enter_row(entry, leading))

    def _enter_row(self, entry: SpoolEntry, leading: Leading) -> Recorded:
        received, attributes, note = _facts(entry, leading)
        return self.catalog.record(received, attributes, self.settings.on_conflict, note)

    def _recorded(self, entry: SpoolEntry, leading: Leading, recorded: Recorded) -> Receipt:
        """Remove the spool files that nothing needs any more, now that the catalog has `entry`."""
        if recorded.outcome is Outcome.DUPLICATE and not self._holds(entry):
            # What the catalog relied on is gone: these bytes take its place.
            recorded = self._enter_row(entry, leading)
        with suppress(OSError):  # what stays is looked at by the next start
            if recorded.superseded_spool:
                self.spool.remove(recorded.superseded_spool)
            if recorded.outcome in (Outcome.DUPLICATE, Outcome.REJECTED):
                self.spool.remove(entry.name)
        if recorded.outcome is Outcome.REJECTED:
            raise ConflictError(f"another data set is kept as {entry.meta.sop_instance_uid}")
        return Receipt(recorded.outcome.value, leading.problem)

    def _holds(self, entry: SpoolEntry) -> bool:
        """Tell whether the file with the bytes of `entry`, under another name, is there; note it if not."""
        for _ in range(_MOVES):
            versions = self.catalog.versions(entry.meta.sop_instance_uid)
            held = next((v for v in versions if v.stands_for(entry.sha256) and not v.damaged), None)
            if held is None or self._is_there(held):
                return held is not None
            if self._where_now(held) == held:  # else it has moved since
                self.catalog.settling.mark_damaged([held.instance_pk], "the file is gone")
                return False
        return True

    def _is_there(self, located: Located) -> bool:
        if located.spool_name is not None:
            return self.spool.path(located.spool_name).exists()
        try:
            return located.blob_name is not None and self.blobs.path(located.blob_name).exists()
        except MissingError:
            return False

    def _where_now(self, located: Located) -> Located | None:
        """Return a version of an instance as the catalog has it now, or None if it is not kept any more."""
        versions = self.catalog.versions(located.sop_instance_uid)
        return next((v for v in versions if v.stands_for(located.sha256)), None)

    def keeps(self, sop_instance_uid: str, size: int, sha256: Callable[[], bytes]) -> bool:
        """Tell whether these very bytes are kept, or what stands for them since they were received, and the
        file is there; `sha256` is asked if need be."""
        versions = [
            v
            for v in self.catalog.versions(sop_instance_uid)
            if size in (v.size, v.received_size) and not v.damaged
        ]
        if not versions:
            return False
        digest = sha256()
        return any(v.stands_for(digest) and self._is_there(v) for v in versions)

    @staticmethod
    def _read_leading(writer: SpoolWriter) -> Leading:
        syntax = writer.meta.transfer_syntax_uid
        leading = read_leading(writer.leading, syntax, WANTED)
        if leading.problem and writer.size > len(writer.leading):
            leading = read_leading(writer.data_set_bytes(LARGEST_LEADING), syntax, WANTED)
        return leading

    # On the way out

    def find(self, query: Query) -> Iterator[Match]:
        """Yield what matches a query."""
        return self.catalog.find(query)

    def locate(self, query: Query) -> list[Located]:
        """Return the instances that the keys of a query describe, ordered for `retrieve`."""
        return self.catalog.locate(query)

    def retrieve(
        self, located: Sequence[Located], choose: ChooseSyntax
    ) -> Generator[Outgoing | Failed, None, None]:
        """Yield instances, decoded ahead and confirmed by their SHA-256; see `Retriever.retrieve`."""
        return self.retriever.retrieve(located, choose)

    def open(self, sop_instance_uid: str, accept: Sequence[str] | None = None) -> Outgoing:
        """Return one instance in a transfer syntax of `accept`; the exact bytes if their own is among them.

        With `accept` None any transfer syntax will do, so it is always the exact bytes.

        Raises
        ------
        MissingError
            If there is no such instance.
        DamagedError, ConversionError
        """
        located = self.catalog.current_version(sop_instance_uid)
        if located is None:
            raise MissingError(f"no instance {sop_instance_uid}")
        return self.open_version(located, accept)

    def open_version(self, located: Located, accept: Sequence[str] | None = None) -> Outgoing:
        """Like `open`, for one of several versions."""

        def targets(item: Located) -> Sequence[str]:
            stored = item.transfer_syntax_uid
            return [stored] if accept is None else candidates(stored, accept)

        (result,) = self.retrieve([located], targets)
        if isinstance(result, Failed):
            raise result.error
        return result

    def committed(self, sop_instance_uid: str) -> bool:
        """Tell whether the bytes of an instance are kept, durable and not known to be damaged."""
        located = self.catalog.current_version(sop_instance_uid)
        return located is not None and not located.damaged and self._is_there(located)

    # At the start

    def recover(self) -> "Recovered":
        """Put right what a crash left: to be called once, before anything is received or compressed.

        Partial files of nobody are removed; complete ones that the catalog does not know are entered;
        blobs that were being written are thrown away (their instances are still in the spool, or in older
        blobs), and so are scratch files. What a re-compression is at in another process is left alone.
        """
        recovered = Recovered(partial=self.spool.sweep())
        self._remove_unfinished_blobs(recovered)
        recovered.scratch = sweep(self.temporary)
        known = self.catalog.settling.spool_names()
        present = set(self.spool.names())
        self._enter_unknown(present - known, recovered)
        gone = sorted(known - present)
        self.catalog.settling.mark_lost(gone)
        for name in gone:
            recovered.problems[name] = "the catalog relies on this spool file, but it is gone"
        return recovered

    def _remove_unfinished_blobs(self, recovered: "Recovered") -> None:
        settling = self.catalog.settling
        held = partial(is_held, self.temporary)
        unheld = {blob for blob in settling.blobs_being_written() if not held(blob[1])}
        # Asked again: one that its process has finished before we looked for the lock is settled by now.
        for blob_pk, name in unheld.intersection(settling.blobs_being_written()):
            try:
                self.blobs.remove(name)
            except OSError as error:  # one file must not keep the node from starting
                recovered.problems[f"blob {name}"] = f"unfinished, but cannot be removed: {error}"
                continue
            settling.abandon_blob(blob_pk)
            recovered.blobs += 1
        self.blobs.sweep(held)

    def recover_receipts(self) -> "Recovered":
        """Put right what a process that died while it received has left; others may receive meanwhile.

        As in `recover`, but what is compressed just now, and files prepared and empty, are left alone. To
        enter a file that another process is about to enter changes nothing for that one.
        """
        recovered = Recovered(partial=self.spool.sweep(prepared=False))
        present = set(self.spool.names())
        self._enter_unknown(present - self.catalog.settling.spool_names(), recovered)
        return recovered

    def _enter_unknown(self, names: set[str], recovered: "Recovered") -> None:
        """Enter complete spool files, oldest first. One that cannot be is reported and stays, as the only copy."""
        for chunk in _chunks(sorted(names), ENTERED_TOGETHER):
            found: dict[str, tuple[SpoolEntry, Leading]] = {}
            for name in chunk:
                with self._reporting(name, recovered):
                    entry = self.spool.entry(name)
                    found[name] = (entry, self._read_entry(entry))
            together = self._entered_together(found)
            for name, (entry, leading) in found.items():
                with self._reporting(name, recovered):
                    settled = None if name in together else self._settled(entry)
                    if settled is not None:
                        self._drop(entry, settled)
                        continue
                    if name in together:
                        self._recorded(entry, leading, together[name])
                    else:
                        self._record(entry, leading)
                    recovered.entered += 1

    def _entered_together(self, found: Mapping[str, tuple[SpoolEntry, Leading]]) -> dict[str, Recorded]:
        """Record in one transaction those of the spool files whose UIDs are new; none if that fails."""
        try:
            known = self.catalog.known([entry.meta.sop_instance_uid for entry, _ in found.values()])
            new = {name: of for name, of in found.items() if of[0].meta.sop_instance_uid not in known}
            facts = [_facts(*of) for of in new.values()]
            return dict(zip(new, self.catalog.record_all(facts, self.settings.on_conflict), strict=True))
        except Exception:  # one of them: each by itself will say which
            return {}

    @contextmanager
    def _reporting(self, name: str, recovered: "Recovered") -> Iterator[None]:
        """Note what goes wrong with a spool file: one bad file must not keep the node from starting."""
        try:
            yield
        except ConflictError:
            recovered.dropped += 1
        except Exception as error:
            if self.spool.path(name).exists():  # else its own process has dropped it meanwhile
                recovered.problems[name] = str(error)

    def _settled(self, entry: SpoolEntry) -> Located | None:
        """Return what a blob holds of a spool file whose removal failed or never came; None if nothing does."""
        if self.catalog.current_version(entry.meta.sop_instance_uid) is None:  # so it is for nearly all
            return None
        for version in self.catalog.versions(entry.meta.sop_instance_uid):
            if (
                version.stands_for(entry.sha256)
                and version.received_at == entry.received_at
                and version.blob_name is not None
                and not version.damaged
                and self._is_there(version)
            ):
                return version
        return None

    def _drop(self, entry: SpoolEntry, settled: Located) -> None:
        if (
            settled.sha256 == entry.sha256
            and settled.blob_name is not None
            and settled.blob_index is not None
        ):
            self.release(entry.name, settled.blob_name, settled.blob_index)
        else:  # another encoding has taken its place: these bytes are not to be served
            self.spool.remove(entry.name)

    def release(self, spool_name: str, blob_name: str, number: int) -> None:
        """Let go of a spool file that nothing needs any more, as its very bytes lie in a blob."""
        if not self.disk_cache.keep(self.spool.path(spool_name), blob_name, number):
            self.spool.remove(spool_name)

    def spooled(self) -> Iterator[SpooledInstance]:
        """Yield the instances that lie in the spool and are not known to be damaged."""
        for series in self.catalog.settling.spooled_series():
            yield from self.catalog.settling.spooled_in(series.series_pk)

    def _read_entry(self, entry: SpoolEntry) -> Leading:
        with self.spool.path(entry.name).open("rb") as file:
            file.seek(entry.offset)
            data = file.read(1 << 16)
            leading = read_leading(data, entry.meta.transfer_syntax_uid, WANTED)
            if leading.problem and entry.size > len(data):
                data += file.read(LARGEST_LEADING - len(data))
                leading = read_leading(data, entry.meta.transfer_syntax_uid, WANTED)
        return leading


@dataclass
class Recovered:
    """What `Archive.recover` found and did."""

    partial: int = 0
    """Partial spool files removed; none of them had been acknowledged."""
    entered: int = 0
    """Complete spool files entered in the catalog."""
    dropped: int = 0
    """Complete spool files that the conflict policy rejects."""
    blobs: int = 0
    """Unfinished blobs removed."""
    scratch: int = 0
    """Scratch files and folders removed."""
    problems: dict[str, str] = field(default_factory=dict)
    """Spool name, or "blob" and its name -> what is wrong with it; such a file is left alone."""


def received_from(entry: SpoolEntry) -> Received:
    """Return the facts of receipt that a spool entry holds."""
    return Received(
        sop_class_uid=entry.meta.sop_class_uid,
        sop_instance_uid=entry.meta.sop_instance_uid,
        transfer_syntax_uid=entry.meta.transfer_syntax_uid,
        size=entry.size,
        sha256=entry.sha256,
        spool_name=entry.name,
        received_at=entry.received_at,
        calling_ae=entry.sender.calling_ae,
        called_ae=entry.sender.called_ae,
        remote_host=entry.sender.remote_host,
    )


def _chunks(names: list[str], size: int) -> Iterator[list[str]]:
    for at in range(0, len(names), size):
        yield names[at : at + size]


def _facts(entry: SpoolEntry, leading: Leading) -> tuple[Received, Mapping[str, str], str | None]:
    """Return what the catalog records of a spool file."""
    note = f"unreadable: {leading.problem}" if leading.problem else None
    return received_from(entry), leading.attributes, note


def _check_uid(what: str, found: str, requested: str) -> None:
    if found and found != requested:
        raise MismatchError(f"{what} is {found} in the data set")
