"""Instances on their way out: decoded ahead of the network, on all cores, in bounded memory, and never
handed over before a checksum confirms that they are what was received: SHA-256 for what was decoded, CRC-32
for what SHA-256 had confirmed before it was kept in memory.
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
from typing import IO

from pydicom.uid import UID

from dcmpress.storage.blobstore import FolderBlobStore
from dcmpress.storage.catalog.search import Located
from dcmpress.storage.elements import Buffer
from dcmpress.storage.encapsulation import Converted
from dcmpress.storage.errors import ConversionError, DamagedError, MissingError, StorageError
from dcmpress.storage.join import InstanceReader
from dcmpress.storage.readers import BlobReaders, Lend
from dcmpress.storage.recent import RecentDataSets, Visits
from dcmpress.storage.spool import Spool
from dcmpress.storage.transcode import convert

IN_MEMORY = 64 << 20
"""Bytes of a data set that is assembled in memory; a larger one goes through an unnamed temporary file."""

BATCH_BYTES = 16 << 20
"""Bytes of data sets that one task decodes."""

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
    _converted: Converted | None = None

    def pieces(self) -> Iterator[bytes]:
        """Yield the data set, piece by piece. Can be called once."""
        if self._converted is not None:
            yield from self._converted.pieces()
        elif self._data is not None:
            yield self._data
        elif self._file is not None:
            with self._file as file:
                file.seek(0)
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
            yield memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


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
        cache_bytes: int = 0,
    ) -> None:
        self._where_now = where_now
        self.recent = RecentDataSets(cache_bytes)
        self._ahead = _Allowance(AHEAD_BYTES)
        self._asked = Visits()
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
        waiting: deque[tuple[Future[list[Outgoing | Failed]], int]] = deque()
        retrieval = _Retrieval(BlobReaders(self._blobs), choose)
        batches = _batches(located, retrieval.readers, self.recent)
        try:
            batch = next(batches, None)
            while batch is not None or waiting:
                while batch is not None and len(waiting) <= AHEAD:
                    size = sum(item.size for item in batch)
                    if not self._ahead.take(size, in_any_case=not waiting):
                        break
                    waiting.append((self._pool.submit(self._read_batch, batch, retrieval), size))
                    batch = next(batches, None)
                future, size = waiting[0]
                yield from future.result()
                waiting.popleft()
                self._ahead.give_back(size)
        finally:
            for future, size in waiting:
                self._ahead.give_back(size)
                if not future.cancel():
                    future.add_done_callback(_discard)
            retrieval.readers.close()

    def _read_batch(self, batch: list[Located], retrieval: "_Retrieval") -> list[Outgoing | Failed]:
        kept = [self.recent.get(item.sha256, retrieval.token) if item.blob_name else None for item in batch]
        with retrieval.readers.lent() as lent:
            try:
                name = batch[0].blob_name
                missing = [
                    item.blob_index
                    for item, data in zip(batch, kept, strict=True)
                    if data is None and item.blob_index is not None
                ]
                if name is not None and len(missing) > 1:
                    lent(name).load_for(missing)
                elif name is not None and len(batch) == len(missing) == 1:
                    self._expect_more(name, lent(name).segments_of(missing[0]))
            except Exception:
                pass  # each instance says for itself what is wrong with it
            return [self._read(item, data, retrieval, lent) for item, data in zip(batch, kept, strict=True)]

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
        self, item: Located, kept: bytes | None, retrieval: "_Retrieval", readers: Lend
    ) -> Outgoing | Failed:
        try:
            chosen = retrieval.choose(item)
            targets = [chosen] if isinstance(chosen, str) else chosen
            if not targets:
                raise ConversionError("the receiver accepts no transfer syntax for this SOP class")
            if item.damaged:
                raise DamagedError(f"{item.sop_instance_uid} is known to be damaged")
            if kept is not None:
                exact = Outgoing(item, item.transfer_syntax_uid, item.size, kept)
            else:
                exact = self._find(item, readers)
                if exact.transfer_syntax_uid != item.transfer_syntax_uid:
                    # Another encoding of it has taken its place since it was looked up.
                    chosen = retrieval.choose(exact.located)
                    targets = [chosen] if isinstance(chosen, str) else chosen
                    if not targets:
                        raise ConversionError("the receiver accepts no transfer syntax for this SOP class")
                if exact.located.blob_name is not None and exact._data is not None:
                    self.recent.put(exact.located.sha256, exact._data, retrieval.token)
            return self._convert(exact, targets)
        except StorageError as error:
            return Failed(item, error)
        except OSError as error:
            return Failed(item, DamagedError(f"cannot be read: {error}"))
        except Exception as error:  # one instance that nobody thought of must not stop the others
            return Failed(item, StorageError(f"cannot be read: {error!r}"))

    def _find(self, item: Located, readers: Lend) -> Outgoing:
        """Read an instance, also if since it was looked up it has moved into a blob, or to another one."""
        for _ in range(_MOVES):
            try:
                return self._exact(item, readers)
            except MissingError:
                now = self._where_now(item)
                if now is None or now == item:
                    raise
                item = now
        raise MissingError(f"{item.sop_instance_uid} moves faster than it can be read")

    def _exact(self, item: Located, readers: Lend) -> Outgoing:
        if item.damaged:
            raise DamagedError(f"{item.sop_instance_uid} is known to be damaged")
        if item.spool_name is not None:
            return self._from_spool(item)
        if item.blob_name is None or item.blob_index is None:
            raise MissingError(f"{item.sop_instance_uid} is neither in the spool nor in a blob")
        return self._confirm(item, readers(item.blob_name).pieces(item.blob_index))

    def _from_spool(self, item: Located) -> Outgoing:
        assert item.spool_name is not None
        entry = self._spool.entry(item.spool_name)

        def pieces() -> Iterator[bytes]:
            with self._spool.path(entry.name).open("rb") as file:
                file.seek(entry.offset)
                while chunk := file.read(_CHUNK):
                    yield chunk

        try:
            return self._confirm(item, pieces())
        except FileNotFoundError:  # removed since `entry` looked
            raise MissingError(f"no spool file {entry.name}") from None

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


def _discard(future: "Future[list[Outgoing | Failed]]") -> None:
    """Let go of what was decoded for nobody."""
    if not future.cancelled() and future.exception() is None:
        for result in future.result():
            if isinstance(result, Outgoing):
                result.close()


def _batches(
    located: Sequence[Located], readers: BlobReaders, recent: RecentDataSets
) -> Iterator[list[Located]]:
    """Cut into tasks: instances of one blob whose frames lie in the same segments, or spool files.

    A cut between segments lets each be decoded once. Where the segments allow no cut, a task holds at most
    four times BATCH_BYTES.
    """
    batch: list[Located] = []
    size = 0
    segments: set[int] = set()
    for item in located:
        found = () if item.sha256 in recent else _segments_of(item, readers)
        apart = size + item.size > (BATCH_BYTES if segments.isdisjoint(found) else 4 * BATCH_BYTES)
        if batch and (apart or item.blob_name != batch[0].blob_name):
            yield batch
            batch, size, segments = [], 0, set()
        batch.append(item)
        size += item.size
        segments.update(found)
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
