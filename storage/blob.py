"""The blob file: one group of instances, immutable, every byte of it under a checksum.

`docs/blob-format.md` describes the bytes; this module writes and reads them and knows nothing of codecs.
Blobs are read by `pread` and not by a memory map: a bad sector is then an error, not the end of the process.
"""

import hashlib
import os
import struct
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from dcmpress.storage.blob_index import BlobIndex
from dcmpress.storage.elements import Buffer
from dcmpress.storage.errors import BlobFormatError, DamagedError

MAGIC = b"\x89DCMP\r\n\x1a"
END_MAGIC = b"DCMPEND\n"
VERSION = 1

_HEADER = struct.Struct("<8sHHI16s28sI")
_SECTION = struct.Struct("<4sIQQ32s4sI")
_FOOTER = struct.Struct("<8sQQ32s4sI")
_ALIGNMENT = 8

STORED, ZSTANDARD = 0, 1
"""Methods of a section: how its payload is compressed, apart from what a codec did."""

FRAMES, SHELLS, DATA, INDEX = b"FRMS", b"SHEL", b"DATA", b"INDX"

LARGEST_WHOLE = 1 << 28
"""Bytes of a section after decompression that a reader is ready to hold; a larger one is read in pieces."""

_CHUNK = 1 << 20
_TRIAL = 16 << 20
"""Bytes after which a stream that does not shrink is stored as it is."""


def _sealed(layout: struct.Struct, *fields: Any) -> bytes:
    """Pack fields and the CRC-32 of everything before it."""
    packed = layout.pack(*fields, 0)[:-4]
    return packed + struct.pack("<I", zlib.crc32(packed))


def _unsealed(layout: struct.Struct, data: bytes, what: str) -> tuple[Any, ...]:
    """Unpack what `_sealed` packed, without the CRC; raise BlobFormatError if that does not hold."""
    *fields, crc = layout.unpack(data)
    if zlib.crc32(data[:-4]) != crc:
        raise BlobFormatError(f"{what} is damaged")
    return tuple(fields)


class BlobWriter:
    """Writes a blob, section by section, into a file that has no reader yet.

    Nothing is durable before `finish` returns.
    """

    def __init__(self, path: Path) -> None:
        self.id = uuid.uuid4()
        self.n_sections = 0
        self._file: BinaryIO = path.open("xb")
        self._file.write(_sealed(_HEADER, MAGIC, VERSION, 0, 0, self.id.bytes, bytes(28)))

    def add(self, kind: bytes, payload: Buffer, *, level: int | None = None) -> int:
        """Write one section; return its number. With `level`, Zstandard is used where it helps."""
        view = memoryview(payload).cast("B")
        method, stored = STORED, view
        if level is not None:
            packed = zstandard.ZstdCompressor(level=level).compress(view)
            if len(packed) < len(view):
                method, stored = ZSTANDARD, memoryview(packed)
        at = self._file.tell()
        self._file.write(bytes(_SECTION.size))
        self._file.write(stored)
        return self._seal(at, kind, method, len(stored), len(view), hashlib.sha256(stored).digest())

    def add_pieces(
        self, kind: bytes, pieces: Callable[[], Iterable[Buffer]], size: int, *, level: int
    ) -> int:
        """Write one section that is too large to hold; `pieces` may be called twice. Return its number."""
        at = self._file.tell()
        for method in (ZSTANDARD, STORED):
            self._file.seek(at)
            self._file.truncate()
            self._file.write(bytes(_SECTION.size))
            digest = hashlib.sha256()
            length = 0
            for part in _compressed(pieces(), size, level) if method == ZSTANDARD else pieces():
                self._file.write(part)
                digest.update(part)
                length += len(part)
            if method == STORED or 0 < length < size:
                break
        return self._seal(at, kind, method, length, size, digest.digest())

    def _seal(self, at: int, kind: bytes, method: int, stored: int, size: int, digest: bytes) -> int:
        """Pad the section that begins at `at` and write its header."""
        self._file.write(bytes(-stored % _ALIGNMENT))
        end = self._file.tell()
        self._file.seek(at)
        self._file.write(_sealed(_SECTION, kind, method, stored, size, digest, bytes(4)))
        self._file.seek(end)
        self.n_sections += 1
        return self.n_sections - 1

    def finish(self, index: BlobIndex) -> int:
        """Write index and footer and flush the file; return its size in bytes."""
        at = self._file.tell()
        payload = index.to_json()
        if len(payload) > LARGEST_WHOLE:
            raise ValueError(f"an index of {len(payload)} bytes: the group is too large")
        self.add(INDEX, payload, level=19)
        end = self._file.tell() + _FOOTER.size
        digest = hashlib.sha256(payload).digest()
        self._file.write(_sealed(_FOOTER, END_MAGIC, at, end, digest, bytes(4)))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return end

    def close(self) -> None:
        """Close the file as it is."""
        self._file.close()


def _compressed(pieces: Iterable[Buffer], size: int, level: int) -> Iterator[bytes]:
    """Yield the pieces as one Zstandard frame; give up, yielding too much, where that does not help."""
    packer = zstandard.ZstdCompressor(level=level).compressobj(size=size)
    read = written = 0
    for piece in pieces:
        packed = packer.compress(piece)
        read += len(piece)
        written += len(packed)
        yield packed
        if read >= _TRIAL and written > 0.98 * read:
            yield bytes(max(0, size - written))
            return
    yield packer.flush()


class BlobReader:
    """Reads a blob. What it returns has been checked against the section's SHA-256.

    Raises
    ------
    BlobFormatError
        When it is opened and header, footer, section headers or index do not hold.
    OSError
        If the disk fails.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb", buffering=0)
        try:
            self.size: int = os.fstat(self._file.fileno()).st_size
            """Of the file, in bytes."""
            self._sections: list[_Section] = []
            self.id, self.index = self._open()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "BlobReader":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def n_sections(self) -> int:
        """Sections in the file, the index included."""
        return len(self._sections)

    def section_kind(self, number: int) -> bytes:
        """Return the kind of a section."""
        return self._section(number).kind

    def section_sizes(self, number: int) -> tuple[int, int]:
        """Return (bytes in the file, bytes after decompression) of a section's payload."""
        section = self._section(number)
        return section.stored, section.size

    def section(self, number: int) -> bytes:
        """Return a section's payload, decompressed.

        Raises
        ------
        DamagedError
            If the bytes in the file do not match their checksum.
        """
        section = self._section(number)
        if section.method == ZSTANDARD and section.size > LARGEST_WHOLE:
            raise BlobFormatError(f"{self.path.name}: section {number} is too large to be held")
        return b"".join(self.pieces(number, 0, section.size))

    def pieces(self, number: int, start: int, stop: int) -> Iterator[bytes]:
        """Yield bytes `start` to `stop` of a section's payload, piece by piece.

        Only when `stop` is the payload's end have they all been checked once the last is taken; a caller
        that stops before has a checksum of its own.

        Raises
        ------
        DamagedError
            If the bytes in the file do not match their checksum.
        """
        section = self._section(number)
        if not 0 <= start <= stop <= section.size:
            raise BlobFormatError(f"{self.path.name}: {start} to {stop} lie outside section {number}")
        source: Any = _Stored(self, section)
        reader = source
        if section.method == ZSTANDARD:
            reader = zstandard.ZstdDecompressor().stream_reader(source, read_size=_CHUNK)
        at = 0
        try:
            while at < stop and (piece := reader.read(min(_CHUNK, (stop if at >= start else start) - at))):
                at += len(piece)
                if at > start:
                    yield piece
            if at < stop:
                raise DamagedError(f"{self.path.name}: section {number} ends too soon")
            if stop == section.size and (reader.read(1) or source.read(1) or not source.holds()):
                raise DamagedError(
                    f"{self.path.name}: section {number} ({section.kind.decode('latin-1')}) is damaged"
                )
        except zstandard.ZstdError as error:
            raise DamagedError(f"{self.path.name}: section {number}: {error}") from None

    def _section(self, number: int) -> "_Section":
        if not 0 <= number < len(self._sections):
            raise BlobFormatError(f"{self.path.name} has no section {number}")
        return self._sections[number]

    def read(self, at: int, length: int) -> bytes:
        """Return bytes of the file, whatever they are.

        Raises
        ------
        BlobFormatError
            If it ends before.
        """
        data = os.pread(self._file.fileno(), length, at)
        while len(data) < length:
            more = os.pread(self._file.fileno(), length - len(data), at + len(data))
            if not more:
                raise BlobFormatError(f"{self.path.name} is truncated")
            data += more
        return data

    def _open(self) -> tuple[uuid.UUID, BlobIndex]:
        name = self.path.name
        if self.size < _HEADER.size + _SECTION.size + _FOOTER.size:
            raise BlobFormatError(f"{name} is too short for a blob")
        header = self.read(0, _HEADER.size)
        if header[: len(MAGIC)] != MAGIC:
            raise BlobFormatError(f"{name} is not a blob")
        _, version, _, _, blob_id, _ = _unsealed(_HEADER, header, f"{name}: the header")
        if not 1 <= version <= VERSION:
            raise BlobFormatError(f"{name} has format version {version}; this program reads 1 to {VERSION}")
        end = self.size - _FOOTER.size
        footer = self.read(end, _FOOTER.size)
        if footer[: len(END_MAGIC)] != END_MAGIC:
            raise BlobFormatError(f"{name} has no footer: it is truncated or damaged")
        _, index_at, size, digest, _ = _unsealed(_FOOTER, footer, f"{name}: the footer")
        if size != self.size:
            raise BlobFormatError(f"{name} has {self.size} bytes instead of {size}")
        self._sections = list(self._read_sections(end))
        last = self._sections[-1]
        if last.kind != INDEX or last.at != index_at:
            raise BlobFormatError(f"{name}: the last section is not the index")
        payload = self.section(len(self._sections) - 1)
        if hashlib.sha256(payload).digest() != digest:
            raise DamagedError(f"{name}: the index is damaged")
        index = BlobIndex.from_json(payload)
        self._check_sections(index)
        return uuid.UUID(bytes=blob_id), index

    def _read_sections(self, end: int) -> Iterator["_Section"]:
        at, number = _HEADER.size, 0
        while at < end:
            what = f"{self.path.name}: section {number}"
            fields = _unsealed(_SECTION, self.read(at, _SECTION.size), f"{what}'s header")
            section = _Section(at, *fields[:5])
            if section.method not in (STORED, ZSTANDARD):
                raise BlobFormatError(f"{what} has method {section.method}")
            if section.method == STORED and section.size != section.stored:
                raise BlobFormatError(f"{what} is stored, but its lengths differ")
            if section.end > end:
                raise BlobFormatError(f"{what} leads out of the file")
            yield section
            at, number = section.end, number + 1

    def _check_sections(self, index: BlobIndex) -> None:
        """Raise BlobFormatError if the index refers to sections that are not what it says."""
        for instance in index.instances:
            section = self._section(instance.section)
            if section.kind not in (SHELLS, DATA):
                raise BlobFormatError(f"{self.path.name}: section {instance.section} holds no shells")
            if instance.offset + instance.head + instance.tail > section.size:
                raise BlobFormatError(f"{self.path.name}: a shell leads out of section {instance.section}")
        for segment in index.segments:
            if self._section(segment.section).kind != FRAMES:
                raise BlobFormatError(f"{self.path.name}: section {segment.section} holds no frames")


class _Section:
    """A section's header, and where it stands."""

    def __init__(self, at: int, kind: bytes, method: int, stored: int, size: int, sha256: bytes) -> None:
        self.at = at
        self.kind = kind
        self.method = method
        self.stored = stored
        self.size = size
        self.sha256 = sha256
        self.start = at + _SECTION.size
        self.end = self.start + stored + -stored % _ALIGNMENT


class _Stored:
    """A section's payload as it lies in the file, hashed while it is read."""

    def __init__(self, blob: BlobReader, section: _Section) -> None:
        self._blob = blob
        self._section = section
        self._at = 0
        self._digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        left = self._section.stored - self._at
        data = self._blob.read(self._section.start + self._at, left if size < 0 else min(size, left))
        self._at += len(data)
        self._digest.update(data)
        return data

    def holds(self) -> bool:
        """Tell whether all of it was read, is what was written, and nothing but zeros pads it."""
        section = self._section
        end = section.start + section.stored
        padding = self._blob.read(end, section.end - end)
        return self._at == section.stored and self._digest.digest() == section.sha256 and not any(padding)
