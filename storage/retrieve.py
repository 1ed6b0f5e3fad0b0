"""Instances on their way out: decoded ahead of the network, on all cores, in bounded memory, and never
handed over before SHA-256 confirms that they are what was received.
"""

import hashlib
import mmap
import os
import tempfile
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pydicom.uid import UID

from dcmpress.storage.blobstore import FolderBlobStore
from dcmpress.storage.catalog.search import Located
from dcmpress.storage.elements import Buffer
from dcmpress.storage.encapsulation import Converted
from dcmpress.storage.errors import ConversionError, DamagedError, MissingError, StorageError
from dcmpress.storage.readers import BlobReaders, Lend
from dcmpress.storage.spool import Spool
from dcmpress.storage.transcode import convert

IN_MEMORY = 64 << 20
"""Bytes of a data set that is assembled in memory; a larger one goes through an unnamed temporary file."""

BATCH_BYTES = 16 << 20
"""Bytes of data sets that one task decodes."""

AHEAD = 3
"""Tasks decoded or being decoded beyond the one that is being sent."""

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
    ) -> None:
        self._where_now = where_now
        self._spool = spool
        self._blobs = blobs
        self._temporary = temporary
        temporary.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._pool = ThreadPoolExecutor(max(2, os.cpu_count() or 2), thread_name_prefix="decode")

    def close(self) -> None:
        """Stop decoding ahead."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def retrieve(
        self, located: Sequence[Located], choose: ChooseSyntax
    ) -> Generator[Outgoing | Failed, None, None]:
        """Yield every instance, in the order given, decoded ahead of the caller.

        Give them in the order that `Catalog.locate` does: neighbours in a blob are decoded together.
        Closing the iterator gives up what is still being decoded.
        """
        waiting: deque[Future[list[Outgoing | Failed]]] = deque()
        readers = BlobReaders(self._blobs)
        batches = _batches(located, readers)
        try:
            while True:
                while len(waiting) <= AHEAD and (batch := next(batches, None)) is not None:
                    waiting.append(self._pool.submit(self._read_batch, batch, choose, readers))
                if not waiting:
                    return
                yield from waiting.popleft().result()
        finally:
            for future in waiting:
                if not future.cancel():
                    future.add_done_callback(_discard)
            readers.close()

    def _read_batch(
        self, batch: list[Located], choose: ChooseSyntax, readers: BlobReaders
    ) -> list[Outgoing | Failed]:
        with readers.lent() as lent:
            try:
                name = batch[0].blob_name
                if name is not None and len(batch) > 1:
                    lent(name).load_for([item.blob_index for item in batch if item.blob_index is not None])
            except Exception:
                pass  # each instance says for itself what is wrong with it
            return [self._read(item, choose, lent) for item in batch]

    def _read(self, item: Located, choose: ChooseSyntax, readers: Lend) -> Outgoing | Failed:
        try:
            chosen = choose(item)
            targets = [chosen] if isinstance(chosen, str) else chosen
            if not targets:
                raise ConversionError("the receiver accepts no transfer syntax for this SOP class")
            return self._convert(item, self._find(item, readers), targets)
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

    def _convert(self, item: Located, exact: Outgoing, targets: Sequence[str]) -> Outgoing:
        """Return an instance in the first of `targets` in which it can be given out."""
        stored = item.transfer_syntax_uid
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


def _discard(future: "Future[list[Outgoing | Failed]]") -> None:
    """Let go of what was decoded for nobody."""
    if not future.cancelled() and future.exception() is None:
        for result in future.result():
            if isinstance(result, Outgoing):
                result.close()


def _batches(located: Sequence[Located], readers: BlobReaders) -> Iterator[list[Located]]:
    """Cut into tasks: instances of one blob whose frames lie in the same segments, or spool files.

    A cut between segments lets each be decoded once. Where the segments allow no cut, a task holds at most
    four times BATCH_BYTES.
    """
    batch: list[Located] = []
    size = 0
    segments: set[int] = set()
    for item in located:
        found = _segments_of(item, readers)
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
