"""Instances on their way out: read or decoded ahead of the network, on all cores, in bounded memory, and never
handed over before a checksum confirms that they are what was received: SHA-256 for what was read or decoded,
CRC-32 for what SHA-256 had confirmed before it was kept in memory.
"""

import hashlib
import mmap
import os
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

import structlog
from pydicom.uid import UID

from dcmpress.storage.allocator import FreedMemory
from dcmpress.storage.blobstore import FolderBlobStore
from dcmpress.storage.catalog.search import Located
from dcmpress.storage.disk_cache import DiskCache
from dcmpress.storage.elements import Buffer
from dcmpress.storage.encapsulation import Converted
from dcmpress.storage.errors import ConversionError, DamagedError, MissingError, StorageError
from dcmpress.storage.join import InstanceReader
from dcmpress.storage.readers import BlobReaders, Lend
from dcmpress.storage.recent import RecentDataSets, Visits
from dcmpress.storage.spool import Spool
from dcmpress.storage.transcode import convert

logger: Any = structlog.get_logger("dcmpress.retrieve")

IN_MEMORY = 64 << 20
"""Bytes of a data set that is assembled in memory; a larger one that is decoded goes through an unnamed temporary
file, and one that is read is sent from its own file."""

BATCH_BYTES = 16 << 20
"""Bytes of data sets that one task decodes."""

SEGMENT_BYTES = 4 << 20
"""Bytes of data sets after which a task ends where a segment does: tasks are to share the cores evenly."""

READ_BYTES = 2 << 20
"""Bytes of data sets that one task reads as they are: so few that they are sent from the processor's cache."""

AHEAD = 3
"""Tasks of a retrieval decoded or being decoded beyond the one that is being sent."""

AHEAD_BYTES = 256 << 20
"""Bytes of data sets of all retrievals together that are decoded ahead; each may have one task in any case."""

_CHUNK = 1 << 20

_MOVES = 3
"""Times that an instance is looked for again because it has moved."""


@dataclass
class Outgoing:
    """One instance ready to be sent: confirmed, and in the transfer syntax that was asked for."""

    located: Located
    transfer_syntax_uid: str
    size: int
    """Of the data set in that transfer syntax, in bytes."""
    _data: bytes | None = None
    _file: IO[bytes] | None = None
    _offset: int = 0
    """Of the data set in the file."""
    _converted: Converted | None = None

    def pieces(self) -> Iterator[bytes]:
        """Yield the data set, piece by piece. Can be called once."""
        if self._converted is not None:
            yield from self._converted.pieces()
        elif self._data is not None:
            yield self._data
        elif self._file is not None:
            with self._file as file:
                file.seek(self._offset)
                while chunk := file.read(_CHUNK):
                    yield chunk

    def close(self) -> None:
        """Let go of an instance that is not sent; `pieces` does so at its end."""
        if self._converted is not None:
            self._converted.close()
        if self._file is not None:
            self._file.close()

    @contextmanager
    def _bytes(self) -> Iterator[Buffer]:
        """Lend the data set in one piece, then let go of it; one in a file is not read into memory."""
        if self._file is None:
            yield self._data or b""
            return
        with self._file as file:
            file.flush()
            yield memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))[self._offset :]


@dataclass
class Failed:
    """One instance that cannot be given out, and why."""

    located: Located
    error: StorageError


ChooseSyntax = Callable[[Located], str | Sequence[str]]
"""Tells the transfer syntax to give an instance out in; or several, the first that works counts."""


class Retriever:
    """Reads instances from spool and blobs. Safe to share between threads."""

    def __init__(
        self,
        spool: Spool,
        blobs: FolderBlobStore,
        temporary: Path,
        where_now: Callable[[Located], Located | None],
        cache_bytes: int,
        disk_cache: DiskCache,
    ) -> None:
        self._where_now = where_now
        self._disk_cache = disk_cache
        self.recent = RecentDataSets(cache_bytes)
        self._ahead = _Allowance(AHEAD_BYTES)
        self._asked = Visits()
        self._freed = FreedMemory()
        self._spool = spool
        self._blobs = blobs
        self._temporary = temporary
        temporary.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._pool = ThreadPoolExecutor(max(2, os.cpu_count() or 2), thread_name_prefix="decode")

    def close(self) -> None:
        """Stop decoding ahead."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.recent.clear()

    def retrieve(
        self, located: Sequence[Located], choose: ChooseSyntax
    ) -> Generator[Outgoing | Failed, None, None]:
        """Yield every instance, in the order given, decoded ahead of the caller.

        Give them in the order that `Catalog.locate` does: neighbours in a blob are decoded together.
        Closing the iterator gives up what is still being decoded.
        """
        with self._freed.kept():
            yield from self._retrieve(located, choose)

    def _retrieve(
        self, located: Sequence[Located], choose: ChooseSyntax
    ) -> Generator[Outgoing | Failed, None, None]:
        waiting: deque[_Task] = deque()
        retrieval = _Retrieval(BlobReaders(self._blobs), choose)
        batches = _batches(located, retrieval.readers, self._reads())
        try:
            batch = next(batches, None)
            while batch is not None or waiting:
                while batch is not None and len(waiting) <= AHEAD:
                    size = sum(item.size for item in batch)
                    if not self._ahead.take(size, in_any_case=not waiting):
                        break
                    task = _Task(size)
                    waiting.append(task)
                    task.start(self._pool.submit(self._read_batch, batch, retrieval, task))
                    batch = next(batches, None)
                yield from waiting[0].results()
                self._ahead.give_back(waiting.popleft().size)
        finally:
            for task in waiting:
                self._ahead.give_back(task.size)
                task.give_up()
            retrieval.readers.close()

    def _reads(self) -> Callable[[Located], bool]:
        """Return what tells, for one retrieval, whether an instance is read as it is and not decoded."""
        on_disk: dict[str, bool] = {}

        def reads(item: Located) -> bool:
            name = item.blob_name
            if name is None or item.sha256 in self.recent:
                return True
            if name not in on_disk:
                on_disk[name] = self._disk_cache.holds(name)
            return on_disk[name]

        return reads

    def _read_batch(self, batch: list[Located], retrieval: "_Retrieval", task: "_Task") -> None:
        kept = [self._kept(item, retrieval) for item in batch]
        with retrieval.readers.lent() as lent:
            try:
                name = batch[0].blob_name
                missing = [
                    item.blob_index
                    for item, found in zip(batch, kept, strict=True)
                    if found is None and item.blob_index is not None
                ]
                if name is not None and len(missing) > 1:
                    lent(name).load_for(missing)
                elif name is not None and len(batch) == len(missing) == 1:
                    self._expect_more(name, lent(name).segments_of(missing[0]))
            except Exception:
                pass  # each instance says for itself what is wrong with it
            for item, found in zip(batch, kept, strict=True):
                if task.given_up:
                    break
                task.put(self._read(item, found, retrieval, lent))

    def _kept(self, item: Located, retrieval: "_Retrieval") -> Outgoing | None:
        """Return what need not be decoded, from memory or the disk cache; None if it must be."""
        if item.blob_name is None or item.damaged or item.size > IN_MEMORY:
            return None
        data = self.recent.get(item.sha256, retrieval.token)
        if data is not None:
            return Outgoing(item, item.transfer_syntax_uid, item.size, data)
        return self._from_disk_cache(item)

    def _expect_more(self, name: str, segments: list[int]) -> None:
        """Note that one instance was asked for by itself; with the second of a segment all of it is decoded.

        Whoever fetches image by image goes on so, and each image of a chain costs the decoding of those before it.
        """
        if len(segments) == 1 and self.recent.capacity and self._asked.is_second((name, segments[0])):
            self._pool.submit(self._keep_segment, name, segments[0])

    def _keep_segment(self, name: str, segment: int) -> None:
        retrieval = object()
        try:
            with InstanceReader(self._blobs.path(name)) as reader:
                reader.load(segment)
                for number in reader.instances_in(segment):
                    instance = reader.blob.index.instances[number]
                    if instance.size <= IN_MEMORY and reader.segments_of(number) == [segment]:
                        sha256 = bytes.fromhex(instance.sha256)
                        self.recent.put(sha256, reader.read(number), retrieval)
        except (StorageError, OSError):
            pass  # whoever asks for the instance is told

    def _read(
        self, item: Located, kept: Outgoing | None, retrieval: "_Retrieval", readers: Lend
    ) -> Outgoing | Failed:
        try:
            chosen = retrieval.choose(item)
            targets = [chosen] if isinstance(chosen, str) else chosen
            if not targets:
                raise ConversionError("the receiver accepts no transfer syntax for this SOP class")
            if item.damaged:
                raise DamagedError(f"{item.sop_instance_uid} is known to be damaged")
            exact = self._find(item, retrieval, readers) if kept is None else kept
            if exact.transfer_syntax_uid != item.transfer_syntax_uid:
                # Another encoding of it has taken its place since it was looked up.
                chosen = retrieval.choose(exact.located)
                targets = [chosen] if isinstance(chosen, str) else chosen
                if not targets:
                    raise ConversionError("the receiver accepts no transfer syntax for this SOP class")
            return self._convert(exact, targets)
        except StorageError as error:
            return Failed(item, error)
        except OSError as error:
            return Failed(item, DamagedError(f"cannot be read: {error}"))
        except Exception as error:  # one instance that nobody thought of must not stop the others
            return Failed(item, StorageError(f"cannot be read: {error!r}"))

    def _find(self, item: Located, retrieval: "_Retrieval", readers: Lend) -> Outgoing:
        """Read an instance, also if since it was looked up it has moved into a blob, or to another one."""
        for _ in range(_MOVES):
            try:
                return self._exact(item, retrieval, readers)
            except MissingError:
                now = self._where_now(item)
                if now is None or now == item:
                    raise
                item = now
        raise MissingError(f"{item.sop_instance_uid} moves faster than it can be read")

    def _exact(self, item: Located, retrieval: "_Retrieval", readers: Lend) -> Outgoing:
        if item.damaged:
            raise DamagedError(f"{item.sop_instance_uid} is known to be damaged")
        if item.spool_name is not None:
            try:
                return self._from_file(item, self._spool.path(item.spool_name).open("rb", buffering=0))
            except FileNotFoundError:
                raise MissingError(f"no spool file {item.spool_name}") from None
        if item.blob_name is None or item.blob_index is None:
            raise MissingError(f"{item.sop_instance_uid} is neither in the spool nor in a blob")
        cached = self._from_disk_cache(item)
        if cached is not None:
            return cached
        decoded = self._confirm(item, readers(item.blob_name).pieces(item.blob_index))
        if decoded._data is not None:
            self.recent.put(item.sha256, decoded._data, retrieval.token)
        return decoded

    def _from_disk_cache(self, item: Located) -> Outgoing | None:
        """Read an instance from the disk cache; None if it is not there as it was received."""
        assert item.blob_name is not None
        assert item.blob_index is not None
        file = self._disk_cache.open(item.blob_name, item.blob_index)
        if file is None:
            return None
        try:
            return self._from_file(item, file)
        except (DamagedError, OSError):
            logger.warning("cached copy is damaged", blob=item.blob_name, number=item.blob_index)
            self._disk_cache.discard(item.blob_name, item.blob_index)
            return None

    @staticmethod
    def _from_file(item: Located, file: IO[bytes]) -> Outgoing:
        """Confirm and return the data set at the end of a spool file; takes the file over.

        Raises
        ------
        DamagedError
            If it is not what was received.
        """
        outgoing = Outgoing(item, item.transfer_syntax_uid, item.size, _file=file)
        try:
            outgoing._offset = os.fstat(file.fileno()).st_size - item.size
            if outgoing._offset < 0:
                raise DamagedError(f"{item.sop_instance_uid} is not whole")
            if item.size <= IN_MEMORY:
                outgoing._data = os.pread(file.fileno(), item.size, outgoing._offset)
                outgoing._file = None
                digest = hashlib.sha256(outgoing._data)
                file.close()
            else:
                digest = hashlib.sha256()
                file.seek(outgoing._offset)
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
            if digest.digest() != item.sha256:
                raise DamagedError(f"{item.sop_instance_uid} is not what was received")
        except BaseException:
            file.close()
            raise
        return outgoing

    def _confirm(self, item: Located, pieces: Iterable[bytes | bytearray | memoryview]) -> Outgoing:
        """Gather a data set and compare its SHA-256 with the one taken on receipt.

        Raises
        ------
        DamagedError
            If it is not what was received.
        """
        digest = hashlib.sha256()
        size = 0
        outgoing = Outgoing(item, item.transfer_syntax_uid, item.size)
        try:
            if item.size <= IN_MEMORY:
                parts = []
                for piece in pieces:
                    size += memoryview(piece).nbytes
                    if size > item.size:
                        break
                    parts.append(piece)
                outgoing._data = b"".join(parts)
                digest.update(outgoing._data)
            else:
                outgoing._file = tempfile.TemporaryFile(dir=self._temporary)  # noqa: SIM115
                for piece in pieces:
                    digest.update(piece)
                    size += memoryview(piece).nbytes
                    outgoing._file.write(piece)
            if size != item.size or digest.digest() != item.sha256:
                raise DamagedError(f"{item.sop_instance_uid} is not what was received")
        except BaseException:
            outgoing.close()
            raise
        return outgoing

    def _convert(self, exact: Outgoing, targets: Sequence[str]) -> Outgoing:
        """Return an instance in the first of `targets` in which it can be given out."""
        item, stored = exact.located, exact.transfer_syntax_uid
        if targets[0] == stored:
            return exact
        problems = []
        with exact._bytes() as data:
            for target in targets:
                try:
                    converted = convert(data, stored, target, self._temporary)
                except ConversionError as error:
                    problems.append(f"{UID(target).name}: {error}")
                    continue
                return Outgoing(item, target, converted.size, _converted=converted)
        raise ConversionError("; ".join(problems))


@dataclass(eq=False)
class _Retrieval:
    """What the tasks of one retrieval share."""

    readers: BlobReaders
    choose: ChooseSyntax
    token: object = field(default_factory=object)


class _Task:
    """Instances that a thread of the pool reads or decodes, handed over one by one as they are ready.

    Parameters
    ----------
    size : int
        Bytes of their data sets.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.given_up = False
        """Nobody waits for the rest."""
        self._ready: SimpleQueue[Outgoing | Failed | None] = SimpleQueue()

    def start(self, future: "Future[None]") -> None:
        """Note what runs it. However that ends, so do the results."""
        self._future = future
        future.add_done_callback(lambda _: self._ready.put(None))

    def put(self, result: Outgoing | Failed) -> None:
        """Hand over the next instance."""
        self._ready.put(result)

    def results(self) -> Iterator[Outgoing | Failed]:
        """Yield the instances as they become ready."""
        while (result := self._ready.get()) is not None:
            yield result
        self._future.result()

    def give_up(self) -> None:
        """Let go of what is ready, and of what still becomes so."""
        self.given_up = True
        self._future.cancel()
        self._future.add_done_callback(lambda _: self._discard())

    def _discard(self) -> None:
        while not self._ready.empty():
            result = self._ready.get()
            if isinstance(result, Outgoing):
                result.close()


class _Allowance:
    """Bytes that may be held by several threads together."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._lock = threading.Lock()

    def take(self, size: int, *, in_any_case: bool) -> bool:
        """Take `size` bytes if they are free, or in any case; tell whether they were taken."""
        with self._lock:
            if size > self._free and not in_any_case:
                return False
            self._free -= size
            return True

    def give_back(self, size: int) -> None:
        """Give back what was taken."""
        with self._lock:
            self._free += size


def _batches(
    located: Sequence[Located], readers: BlobReaders, reads: Callable[[Located], bool]
) -> Iterator[list[Located]]:
    """Cut into tasks: instances of one blob whose frames lie in the same segments, or spool files.

    A cut between segments lets each be decoded once; one comes after SEGMENT_BYTES. Where the segments allow no
    cut, a task holds at most four times BATCH_BYTES. A task that only reads, by what `reads` says of each
    instance, is small.
    """
    batch: list[Located] = []
    size = 0
    segments: set[int] = set()
    only_reads = True
    for item in located:
        plain = reads(item)
        found = () if plain else _segments_of(item, readers)
        limit = BATCH_BYTES
        if plain and only_reads:
            limit = min(READ_BYTES, limit)
        elif found and segments:
            limit = min(SEGMENT_BYTES, limit) if segments.isdisjoint(found) else 4 * limit
        if batch and (size + item.size > limit or item.blob_name != batch[0].blob_name):
            yield batch
            batch, size, segments, only_reads = [], 0, set(), True
        batch.append(item)
        size += item.size
        segments.update(found)
        only_reads &= plain
    if batch:
        yield batch


def _segments_of(item: Located, readers: BlobReaders) -> Sequence[int]:
    """Return the segments that hold frames of an instance; none if that cannot be told."""
    if item.blob_name is None or item.blob_index is None:
        return ()
    try:
        with readers.lent() as lent:
            return lent(item.blob_name).segments_of(item.blob_index)
    except Exception:
        return ()  # reading the instance will say what is wrong
