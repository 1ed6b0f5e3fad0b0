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

Write order: an empty NAME.free whose entry in the folder was flushed when it was prepared; rename to
NAME.part; data; the preamble; flush the file; rename to NAME.dcm. Only then is the instance acknowledged.
The renames are not flushed: a power cut may undo them, so at start a NAME.free or NAME.part that no process
holds locked is looked at. If its preamble is valid and its data have that SHA-256, it is whole and becomes
NAME.dcm; else it was never acknowledged, and goes.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO

from dcmpress.storage.elements import Buffer
from dcmpress.storage.errors import DamagedError, MalformedError, MissingError, NoSpaceError
from dcmpress.storage.folders import flush_folder, make_folder
from dcmpress.storage.part10 import PREAMBLE_LENGTH, FileMeta, part10_header, read_part10
from dcmpress.storage.prepared import FREE, TAKEN, PreparedFiles

_PROOF = struct.Struct("<8sIQ32sQ16s16s32s")
_CRC = struct.Struct("<I")
_MAGIC = b"DCMPSPL1"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_LARGEST_HEADER = 1 << 20
"""Bytes of a file before its data set that are believed."""

_OUT_OF_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

LEADING_WINDOW = 1 << 16
"""Bytes of a data set that a `SpoolWriter` keeps in memory for the index row."""


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
        make_folder(folder)
        self._prepared = PreparedFiles(folder, durable=durable)

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
        try:
            name, fd = self._prepared.take()
        except OSError as error:
            raise _translated(error) from error
        return SpoolWriter(self, name, fd, meta, sender)

    def check_space(self) -> None:
        """Raise NoSpaceError if free space is under the reserve."""
        stat = os.statvfs(self.folder)
        free = stat.f_bavail * stat.f_frsize
        if free < self.reserve:
            raise NoSpaceError(f"{free >> 20} MiB are free; {self.reserve >> 20} MiB must remain")

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
        except MalformedError:  # a power cut may leave the proof without what it is the proof of
            meta, data_at = None, 0
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
        processes are at work, `prepared` must be False: what they prepare is locked only once it is there.
        """
        removed = adopted = 0
        for path in [*self.folder.glob(f"*{TAKEN}"), *(self.folder.glob(f"*{FREE}") if prepared else ())]:
            with contextlib.suppress(OSError), path.open("rb") as file:
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
    """One data set on its way into the spool. Used by one thread; end it with `finish` or `abandon`."""

    def __init__(self, spool: Spool, name: str, fd: int, meta: FileMeta, sender: Sender) -> None:
        self.name = name
        self.meta = meta
        self.sender = sender
        self.size = 0
        self.leading = bytearray()
        self._spool = spool
        self._fd = fd
        self._open = True
        self._part = (
            f"{spool.folder}/{name}{TAKEN}"  # a string: pathlib would cost more than the system calls
        )
        self._hash = hashlib.sha256()
        try:
            self._header = part10_header(meta)
            self._write(memoryview(self._header))
        except BaseException:
            self.abandon()
            raise

    def write(self, chunk: Buffer) -> None:
        """Append bytes of the data set; raise NoSpaceError if the disk is full."""
        view = memoryview(chunk)
        if len(self.leading) < LEADING_WINDOW:
            self.leading += view[: LEADING_WINDOW - len(self.leading)]
        self._hash.update(view)
        self.size += len(view)
        self._write(view)

    def _write(self, view: memoryview) -> None:
        try:
            while view:
                view = view[os.write(self._fd, view) :]
        except OSError as error:
            raise _translated(error) from error

    def data_set_bytes(self, limit: int) -> bytes:
        """Return the first `limit` bytes of the data set as written so far."""
        return os.pread(self._fd, limit, len(self._header))

    @property
    def sha256(self) -> bytes:
        """SHA-256 of what has been written so far."""
        return self._hash.digest()

    def finish(self, received_at: datetime | None = None) -> SpoolEntry:
        """Make the file whole and safe from a power cut; return its entry.

        `received_at` is now, unless these bytes were received before (a re-compression).

        Raises
        ------
        NoSpaceError
            If the disk is full; the writer is then still to be abandoned.
        """
        received_at = received_at or datetime.now(UTC)
        proof = _PROOF.pack(
            _MAGIC,
            len(self._header),
            self.size,
            self.sha256,
            (received_at - _EPOCH) // timedelta(microseconds=1),
            self.sender.calling_ae.encode()[:16],
            self.sender.called_ae.encode()[:16],
            self.sender.remote_host.encode()[:32],
        )
        try:
            os.pwrite(self._fd, proof + _CRC.pack(zlib.crc32(proof)), 0)
            if self._spool.durable:
                os.fsync(self._fd)
            os.rename(self._part, f"{self._spool.folder}/{self.name}.dcm")  # noqa: PTH104 - as above
        except OSError as error:
            raise _translated(error) from error
        finally:
            self._close()
        return SpoolEntry(
            self.name, self.meta, self.sender, received_at, len(self._header), self.size, self.sha256
        )

    def abandon(self) -> None:
        """Throw away what was written, finished or not; can be called twice."""
        Path(self._part).unlink(missing_ok=True)
        self._spool.remove(self.name)
        self._close()

    def _close(self) -> None:
        if self._open:
            self._open = False
            os.close(self._fd)


def _translated(error: OSError) -> Exception:
    if error.errno in _OUT_OF_SPACE:
        return NoSpaceError(f"the disk is full: {error.strerror}")
    return error
