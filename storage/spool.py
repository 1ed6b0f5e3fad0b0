"""The spool: where a received data set is made safe before it is acknowledged.

Each file is a DICOM file (PS3.10), so that nobody needs this program to read it. Its preamble, which the
standard leaves to the application, is the proof that the file is whole:

    offset  size  field
    0       8     "DCMPSPL1"
    8       4     offset of the data set in the file
    12      8     bytes of the data set
    20      32    SHA-256 of the data set as received
    52      8     received at, microseconds since 1970-01-01 UTC
    60      16    calling AE title, padded with NUL
    76      16    called AE title, padded with NUL
    92      32    remote host, padded with NUL, cut to 32
    124     4     CRC-32 of bytes 0 to 123

Write order: an empty NAME.part whose entry in the folder was flushed when it was prepared; data, then what
stands before them, with the preamble; flush the file; rename to NAME.dcm. Only then is the instance
acknowledged. The disk begins to write while the SHA-256 is computed.
The renaming is not flushed: a power cut may undo it, so at start a NAME.part that no process holds locked is
looked at. If its preamble is valid and its data have that SHA-256, it is whole and becomes NAME.dcm; else it was
never acknowledged, and goes.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import struct
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

from dcmpress.storage.elements import Buffer
from dcmpress.storage.errors import DamagedError, MalformedError, MissingError, NoSpaceError
from dcmpress.storage.folders import flush_folder, make_folder
from dcmpress.storage.part10 import PREAMBLE_LENGTH, FileMeta, part10_header, read_part10
from dcmpress.storage.prepared import UNFINISHED, PreparedFiles
from dcmpress.storage.writeback import start_writing

_PROOF = struct.Struct("<8sIQ32sQ16s16s32s")
_CRC = struct.Struct("<I")
_MAGIC = b"DCMPSPL1"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_LARGEST_HEADER = 1 << 20
"""Bytes of a file before its data set that are believed."""

_OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_NEARLY_SHORT = 128 << 20
"""Free bytes beyond the reserve under which what can be spared gives way."""

LEADING_WINDOW = 1 << 16
"""Bytes of a data set that a `SpoolWriter` keeps in memory for the index row."""

_BUFFER = 1 << 20
"""Bytes of a file that are gathered in memory before they are written: most images whole."""

_BUFFERS_KEPT = 16
"""Buffers that wait for the next data sets."""

_WORTH_A_START = 1 << 17
"""Bytes of a file from which on two starts of writing cost less than waiting for the disk."""

_PAGE = 4096
"""Bytes at the beginning of a file that are written last, with the preamble."""

_FORMERLY_PREPARED = ".free"
"""What versions before called a file that was prepared, or taken if a power cut undid a renaming."""

_NOTHING = memoryview(b"")


@dataclass(frozen=True)
class Sender:
    """Who sent an instance, as the association says."""

    calling_ae: str = ""
    called_ae: str = ""
    remote_host: str = ""


@dataclass(frozen=True)
class SpoolEntry:
    """What a complete spool file says of itself."""

    name: str
    meta: FileMeta
    sender: Sender
    received_at: datetime
    offset: int
    """Of the data set in the file, in bytes."""
    size: int
    """Of the data set, in bytes."""
    sha256: bytes


class Spool:
    """A folder of received data sets, shared by all processes of a node.

    Parameters
    ----------
    folder : Path
        Created if absent.
    reserve : int
        Free bytes that must remain on its file system; a new file is refused under that.
    durable : bool
        False for a scratch folder, whose files need not survive anything.
    """

    def __init__(self, folder: Path, reserve: int = 0, *, durable: bool = True) -> None:
        self.folder = folder
        self.reserve = reserve
        self.durable = durable
        self.make_room: Callable[[int], int] = lambda _: 0
        """Removes what can be spared to free so many bytes more; returns how many. Asked before anything is refused."""
        make_folder(folder)
        self._prepared = PreparedFiles(folder, durable=durable)
        self._buffers: deque[memoryview] = deque(maxlen=_BUFFERS_KEPT)

    def close(self) -> None:
        """Remove the files that were prepared and not used."""
        self._prepared.close()

    def begin(self, meta: FileMeta, sender: Sender) -> "SpoolWriter":
        """Open a new file for a data set.

        Raises
        ------
        NoSpaceError
            If free space is under the reserve, or there is none at all.
        """
        self.check_space()
        while True:
            try:
                name, fd = self._prepared.take()
                break
            except OSError as error:
                self.give_way(error)
        return SpoolWriter(self, name, fd, meta, sender)

    def lend_buffer(self) -> memoryview:
        """Return a buffer of `_BUFFER` bytes; to be given back."""
        try:
            return self._buffers.pop()
        except IndexError:
            return memoryview(bytearray(_BUFFER))

    def give_back(self, buffer: memoryview) -> None:
        """Take a buffer for the next data set."""
        self._buffers.append(buffer)

    def check_space(self) -> None:
        """Raise NoSpaceError if free space is under the reserve."""
        stat = os.statvfs(self.folder)
        free = stat.f_bavail * stat.f_frsize
        if free < self.reserve + _NEARLY_SHORT:
            free += self.make_room(self.reserve + _NEARLY_SHORT - free)
        if free < self.reserve:
            raise NoSpaceError(f"{free >> 20} MiB are free; {self.reserve >> 20} MiB must remain")

    def give_way(self, error: OSError) -> None:
        """Return when room was made on a disk that is full; raise any other error, or this one if there is none."""
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self.make_room(0):
            raise _translated(error) from error

    def path(self, name: str) -> Path:
        """Return where the complete file `name` lies."""
        return self.folder / f"{name}.dcm"

    def names(self) -> list[str]:
        """Return the names of all complete files, oldest first."""
        return sorted(entry.name[:-4] for entry in os.scandir(self.folder) if entry.name.endswith(".dcm"))

    def entry(self, name: str) -> SpoolEntry:
        """Read what the complete file `name` says of itself.

        Raises
        ------
        MissingError, DamagedError
        """
        return self._entry(name, self.path(name))

    @staticmethod
    def _entry(name: str, path: Path) -> SpoolEntry:
        try:
            with path.open("rb") as file:
                head = file.read(4096)
                actual = os.fstat(file.fileno()).st_size
                if len(head) >= PREAMBLE_LENGTH:  # a UID may be longer than the standard allows
                    offset = min(_PROOF.unpack_from(head)[1], _LARGEST_HEADER)
                    head += file.read(max(0, offset - len(head)))
        except FileNotFoundError:
            raise MissingError(f"no spool file {name}") from None
        if len(head) < PREAMBLE_LENGTH or _CRC.unpack_from(head, _PROOF.size)[0] != zlib.crc32(
            head[: _PROOF.size]
        ):
            raise DamagedError(f"spool file {name} has no valid preamble")
        magic, offset, size, sha256, micros, calling, called, host = _PROOF.unpack_from(head)
        if magic != _MAGIC or actual != offset + size:
            raise DamagedError(f"spool file {name} is not whole")
        try:
            meta, data_at = read_part10(head[:offset])
        except MalformedError as error:
            raise DamagedError(f"spool file {name}: {error}") from error
        if meta is None or data_at != offset:
            raise DamagedError(f"spool file {name} has no valid file meta information")
        sender = Sender(*(text.rstrip(b"\0").decode("utf-8", "replace") for text in (calling, called, host)))
        received_at = _EPOCH + timedelta(microseconds=micros)
        return SpoolEntry(name, meta, sender, received_at, offset, size, sha256)

    def remove(self, name: str) -> None:
        """Remove a complete file; one that is gone already is no error."""
        self.path(name).unlink(missing_ok=True)

    def sweep(self, *, prepared: bool = True) -> int:
        """Remove partial files that no process is writing; return how many.

        One that is whole, though it lacks its name, gets it and is counted among the complete ones. Where
        processes are at work, `prepared` must be False: what they prepare, still empty, is locked only once it
        is there.
        """
        removed = adopted = 0
        for path in [*self.folder.glob(f"*{UNFINISHED}"), *self.folder.glob(f"*{_FORMERLY_PREPARED}")]:
            with contextlib.suppress(OSError), path.open("rb") as file:
                if not prepared and not os.fstat(file.fileno()).st_size:
                    continue
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if self._is_whole(path, file):
                    path.rename(self.path(path.stem))
                    adopted += 1
                else:
                    path.unlink()
                    removed += os.fstat(file.fileno()).st_size > 0  # an empty one was only prepared
        if adopted:
            flush_folder(self.folder)
        return removed

    def _is_whole(self, path: Path, file: IO[bytes]) -> bool:
        """Tell whether a partial file has a proof that holds. The proof may have survived without the data."""
        try:
            entry = self._entry(path.stem, path)
        except (DamagedError, MissingError):
            return False
        file.seek(entry.offset)
        digest = hashlib.sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
        return digest.digest() == entry.sha256

    def entries(self) -> Iterator[SpoolEntry | tuple[str, str]]:
        """Yield the entry of every complete file, or (name, problem) for one that does not hold."""
        for name in self.names():
            try:
                yield self.entry(name)
            except MissingError:
                continue
            except DamagedError as error:
                yield name, str(error)


class SpoolWriter:
    """One data set on its way into the spool. Used by one thread; end it with `finish` or `abandon`.

    Bytes are gathered in a buffer and written when it is full, or when the data set has ended.
    """

    def __init__(self, spool: Spool, name: str, fd: int, meta: FileMeta, sender: Sender) -> None:
        self.name = name
        self.meta = meta
        self.sender = sender
        self.size = 0
        self._spool = spool
        self._fd = fd
        self._open = True
        self._part = (
            f"{spool.folder}/{name}{UNFINISHED}"  # a string: pathlib would cost more than the system calls
        )
        self._hash = hashlib.sha256()
        self._buffer = spool.lend_buffer()
        self._filled = 0
        self._written = 0  # offset in the file of the buffer's first byte
        self._out = self._hashed = 0  # how far into the buffer
        self._leading = b""
        try:
            header = part10_header(meta)
            self._header_size = len(header)
            self._gather(memoryview(header))
        except BaseException:
            self.abandon()
            raise

    def write(self, chunk: Buffer) -> None:
        """Append bytes of the data set; raise NoSpaceError if the disk is full."""
        view = memoryview(chunk)
        self.size += len(view)
        self._gather(view)

    def _gather(self, view: memoryview) -> None:
        while view:
            if self._filled == len(self._buffer):
                self._go_on_with_an_empty_buffer()
            part = view[: len(self._buffer) - self._filled]
            self._buffer[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            view = view[len(part) :]

    def _go_on_with_an_empty_buffer(self) -> None:
        if not self._written:
            self._leading = bytes(self.leading)
        self._write_out()
        self._hash_on()
        self._written += self._filled
        self._filled = self._hashed = self._out = 0

    def _write_out(self, begin: int = 0) -> None:
        """Write what the buffer holds, from `begin` on, and have the disk begin with it."""
        begin = max(begin, self._out)
        view, at = self._buffer[begin : self._filled], self._written + begin
        self._out = self._filled
        self._write_at(view, at)
        if self._spool.durable and view:
            start_writing(self._fd, at, len(view))

    def _write_at(self, view: memoryview, at: int) -> None:
        while view:
            try:
                count = os.pwrite(self._fd, view, at)
                view, at = view[count:], at + count
            except OSError as error:
                self._spool.give_way(error)

    def _hash_on(self) -> None:
        begin = max(self._hashed, self._header_size - self._written)  # the header does not count
        self._hash.update(self._buffer[begin : self._filled])
        self._hashed = self._filled

    @property
    def leading(self) -> Buffer:
        """The first `LEADING_WINDOW` bytes of the data set as far as they have come; valid until the end."""
        if self._written:
            return self._leading
        return self._buffer[self._header_size : min(self._filled, self._header_size + LEADING_WINDOW)]

    def data_set_bytes(self, limit: int) -> bytes:
        """Return the first `limit` bytes of the data set as far as they have come."""
        if not self._written:
            return bytes(self._buffer[self._header_size : min(self._filled, self._header_size + limit)])
        self._write_out()
        return os.pread(self._fd, limit, self._header_size)

    def end(self) -> None:
        """Say that the data set has come to its end: the disk begins to write it.

        Raises
        ------
        NoSpaceError
        """
        if self._written:
            self._write_out()
        elif self._filled >= _WORTH_A_START:
            self._write_out(_PAGE)

    def finish(self, received_at: datetime | None = None) -> SpoolEntry:
        """Make the file whole and safe from a power cut; return its entry.

        `received_at` is now, unless these bytes were received before (a re-compression).

        Raises
        ------
        NoSpaceError
            If the disk is full; the writer is then still to be abandoned.
        """
        try:
            self.end()
            self._hash_on()
            sha256 = self._hash.digest()
            received_at = received_at or datetime.now(UTC)
            proof = _PROOF.pack(
                _MAGIC,
                self._header_size,
                self.size,
                sha256,
                (received_at - _EPOCH) // timedelta(microseconds=1),
                self.sender.calling_ae.encode()[:16],
                self.sender.called_ae.encode()[:16],
                self.sender.remote_host.encode()[:32],
            )
            proof += _CRC.pack(zlib.crc32(proof))
            if self._written:
                self._write_at(memoryview(proof), 0)
            else:
                self._buffer[: len(proof)] = proof
                self._write_at(self._buffer[: _PAGE if self._out else self._filled], 0)
            if self._spool.durable:
                os.fsync(self._fd)
            os.rename(self._part, f"{self._spool.folder}/{self.name}.dcm")  # noqa: PTH104 - as above
        except OSError as error:
            raise _translated(error) from error
        finally:
            self._close()
        return SpoolEntry(
            self.name, self.meta, self.sender, received_at, self._header_size, self.size, sha256
        )

    def abandon(self) -> None:
        """Throw away what was written, finished or not; can be called twice."""
        try:
            Path(self._part).unlink(missing_ok=True)
            self._spool.remove(self.name)
        finally:
            self._close()

    def _close(self) -> None:
        if self._open:
            self._open = False
            os.close(self._fd)
            self._spool.give_back(self._buffer)
            self._buffer = _NOTHING


def _translated(error: OSError) -> Exception:
    if error.errno in _OUT_OF_SPACE:
        return NoSpaceError(f"the disk is full: {error.strerror}")
    return error
