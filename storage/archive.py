"""The storage face: what both doors of the node, DICOM and web, do with what it keeps."""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from dcmpress.storage.blobstore import FolderBlobStore
from dcmpress.storage.catalog.attributes import ATTRIBUTES
from dcmpress.storage.catalog.catalog import Catalog
from dcmpress.storage.catalog.query import Query
from dcmpress.storage.catalog.recording import OnConflict, Outcome, Recorded
from dcmpress.storage.catalog.search import Located, Match
from dcmpress.storage.catalog.settling import SpooledInstance
from dcmpress.storage.elements import Buffer
from dcmpress.storage.errors import ConflictError, MalformedError, MismatchError, MissingError
from dcmpress.storage.folders import make_folder
from dcmpress.storage.leading import Leading, read_leading
from dcmpress.storage.part10 import FileMeta
from dcmpress.storage.received import Received
from dcmpress.storage.retrieve import ChooseSyntax, Failed, Outgoing, Retriever
from dcmpress.storage.spool import Sender, Spool, SpoolEntry, SpoolWriter
from dcmpress.storage.targets import candidates

OnUnreadable = Literal["keep", "refuse"]

WANTED = {attribute.tag: attribute for attribute in ATTRIBUTES if attribute.origin == "data set"}

LARGEST_LEADING = 1 << 26
"""Bytes of a data set that are searched for attributes when the spool writer's window does not reach."""

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

        self.retriever = Retriever(
            self.spool, self.blobs, settings.root / "tmp", self._where_now, settings.cache_bytes
        )

    def close(self) -> None:
        """Let go of everything."""
        self.retriever.close()
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
        entry = writer.finish()
        return self._record(entry, leading)

    def enter(self, entry: SpoolEntry) -> Receipt:
        """Enter a complete spool file that another process of this node has written.

        Raises
        ------
        ConflictError, StorageError, OSError
            As `commit` does.
        """
        return self._record(entry, self._read_entry(entry))

    def _record(self, entry: SpoolEntry, leading: Leading) -> Receipt:
        note = f"unreadable: {leading.problem}" if leading.problem else None

        def record() -> Recorded:
            return self.catalog.record(
                received_from(entry), leading.attributes, self.settings.on_conflict, note
            )

        try:
            recorded = record()
            if recorded.outcome is Outcome.DUPLICATE and not self._holds(entry):
                recorded = record()  # what the catalog relied on is gone: these bytes take its place
        except BaseException:
            self.spool.remove(entry.name)
            raise
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
            held = next((v for v in versions if v.sha256 == entry.sha256 and not v.damaged), None)
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
        return next((v for v in versions if v.sha256 == located.sha256), None)

    def keeps(self, sop_instance_uid: str, size: int, sha256: Callable[[], bytes]) -> bool:
        """Tell whether these very bytes are kept, and their file is there; `sha256` is asked if need be."""
        versions = [v for v in self.catalog.versions(sop_instance_uid) if v.size == size and not v.damaged]
        if not versions:
            return False
        digest = sha256()
        return any(v.sha256 == digest and self._is_there(v) for v in versions)

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
        blobs that were being written are thrown away (their instances are still in the spool).
        """
        recovered = Recovered(partial=self.spool.sweep())
        for blob_pk, name in self.catalog.settling.blobs_being_written():
            self.blobs.remove(name)
            self.catalog.settling.abandon_blob(blob_pk)
            recovered.blobs += 1
        self.blobs.sweep()
        known = self.catalog.settling.spool_names()
        present = set(self.spool.names())
        self._enter_unknown(present - known, recovered)
        gone = sorted(known - present)
        self.catalog.settling.mark_lost(gone)
        for name in gone:
            recovered.problems[name] = "the catalog relies on this spool file, but it is gone"
        return recovered

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
        for name in sorted(names):
            try:
                entry = self.spool.entry(name)
                if self._settled(entry):
                    self.spool.remove(name)
                    continue
                leading = self._read_entry(entry)
                self._record(entry, leading)
                recovered.entered += 1
            except ConflictError:
                recovered.dropped += 1
            except Exception as error:  # one bad file must not keep the node from starting
                if self.spool.path(name).exists():  # else its own process has dropped it meanwhile
                    recovered.problems[name] = str(error)

    def _settled(self, entry: SpoolEntry) -> bool:
        """Tell whether a spool file is what a blob was made of: its removal failed, or never came."""
        if self.catalog.current_version(entry.meta.sop_instance_uid) is None:  # so it is for nearly all
            return False
        return any(
            (version.sha256, version.received_at) == (entry.sha256, entry.received_at)
            and version.blob_name is not None
            and not version.damaged
            and self._is_there(version)
            for version in self.catalog.versions(entry.meta.sop_instance_uid)
        )

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
    problems: dict[str, str] = field(default_factory=dict)
    """Spool name -> what is wrong with it; such a file is left alone."""


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


def _check_uid(what: str, found: str, requested: str) -> None:
    if found and found != requested:
        raise MismatchError(f"{what} is {found} in the data set")
