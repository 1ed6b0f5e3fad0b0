"""The blob file: one group of instances, immutable, every section under a checksum.

`docs/blob-format.md` describes the bytes; this module writes and reads them and knows nothing of codecs.
"""

import hashlib
import json
import mmap
import os
import struct
import uuid
import zlib
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import zstandard

from dcmpress.storage.elements import Buffer
from dcmpress.storage.errors import BlobFormatError, DamagedError
from dcmpress.storage.split import PixelFormat

MAGIC = b"\x89DCMP\r\n\x1a"
END_MAGIC = b"DCMPEND\n"
VERSION = 1

_HEADER = struct.Struct("<8sHHI16s32x")
_SECTION = struct.Struct("<4sIQQ32s8x")
_FOOTER = struct.Struct("<8sQQ32s4x")
_CRC = struct.Struct("<I")
_ALIGNMENT = 8
_FOOTER_SIZE = _FOOTER.size + _CRC.size

STORED, ZSTANDARD = 0, 1
"""Methods of a section: how its payload is compressed, apart from what a codec did."""

FRAMES, SHELLS, DATA, INDEX = b"FRMS", b"SHEL", b"DATA", b"INDX"

LARGEST_INDEX = 1 << 28
"""Bytes of an index after decompression that a reader is ready to hold."""


@dataclass(frozen=True)
class BlobInstance:
    """One instance in a blob's index."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    size: int
    """Of the data set as received, in bytes."""
    sha256: str
    """Of the data set as received, hexadecimal."""
    received_at: str
    """ISO 8601, UTC."""
    calling_ae: str
    called_ae: str
    remote_host: str
    section: int
    """Number of the section (SHELLS or DATA) that holds the shell."""
    offset: int
    """Of the shell in that section after decompression."""
    head: int
    """Bytes of the shell before the first frame; all of it when there are no frames."""
    tail: int
    """Bytes of the shell after the last frame."""
    n_frames: int = 0
    pixel_format: int = -1
    """Number in `BlobIndex.pixel_formats`; -1 without frames."""


@dataclass(frozen=True)
class BlobSegment:
    """Frames that one codec stream holds."""

    section: int
    codec: str
    parameters: dict[str, Any]
    format_version: int
    frames: list[tuple[int, int]]
    """(instance, frame number), in coding order."""
    references: list[int]
    """Position in this segment of the frame that predicts each frame; -1: none."""
    shifts: list[tuple[int, int]]
    offsets: list[int]
    """Where each frame's own bytes begin in the codec stream; empty if the codec keeps them together."""


@dataclass
class BlobIndex:
    """What a blob says of itself."""

    writer: str
    created_at: str
    instances: list[BlobInstance] = field(default_factory=list)
    pixel_formats: list[PixelFormat] = field(default_factory=list)
    segments: list[BlobSegment] = field(default_factory=list)

    def to_json(self) -> bytes:
        """Return the index as UTF-8 JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "BlobIndex":
        """Read what `to_json` wrote; keys that this version does not know are left aside.

        Raises
        ------
        BlobFormatError
            If it is not an index.
        """
        try:
            tree = json.loads(data)
            index = cls(
                writer=str(tree["writer"]),
                created_at=str(tree["created_at"]),
                instances=[BlobInstance(**_known(BlobInstance, item)) for item in tree["instances"]],
                pixel_formats=[PixelFormat(**_known(PixelFormat, item)) for item in tree["pixel_formats"]],
                segments=[BlobSegment(**_known(BlobSegment, item)) for item in tree["segments"]],
            )
            index._check()
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise BlobFormatError(f"the index is not readable: {error!r}") from None
        return index

    def _check(self) -> None:
        """Raise ValueError if numbers in the index do not fit together."""
        for instance in self.instances:
            if min(instance.offset, instance.head, instance.tail, instance.n_frames, instance.size) < 0:
                raise ValueError(f"negative extent in {instance.sop_instance_uid}")
            if instance.n_frames and not 0 <= instance.pixel_format < len(self.pixel_formats):
                raise ValueError(f"no pixel format {instance.pixel_format}")
        for segment in self.segments:
            if not len(segment.frames) == len(segment.references) == len(segment.shifts):
                raise ValueError("a segment's lists differ in length")
            for instance_number, frame in segment.frames:
                if not 0 <= frame < self.instances[instance_number].n_frames or instance_number < 0:
                    raise ValueError(f"no frame {frame} in instance {instance_number}")


def _known(kind: type, item: dict[str, Any]) -> dict[str, Any]:
    return {name: item[name] for name in kind.__dataclass_fields__ if name in item}  # type: ignore[attr-defined]


class BlobWriter:
    """Writes a blob, section by section, into a file that has no reader yet.

    Nothing is durable before `finish` returns.
    """

    def __init__(self, path: Path) -> None:
        self.id = uuid.uuid4()
        self.n_sections = 0
        self._file: BinaryIO = path.open("xb")
        self._file.write(_HEADER.pack(MAGIC, VERSION, 0, 0, self.id.bytes))

    def add(self, kind: bytes, payload: Buffer, *, level: int | None = None) -> int:
        """Write one section; return its number. With `level`, Zstandard is used where it helps."""
        method, stored = STORED, memoryview(payload).cast("B")
        if level is not None:
            packed = zstandard.ZstdCompressor(level=level).compress(stored)
            if len(packed) < len(stored):
                method, stored = ZSTANDARD, memoryview(packed)
        size = memoryview(payload).nbytes
        digest = hashlib.sha256(stored).digest()
        self._file.write(_SECTION.pack(kind, method, len(stored), size, digest))
        self._file.write(stored)
        self._file.write(bytes(-len(stored) % _ALIGNMENT))
        self.n_sections += 1
        return self.n_sections - 1

    def finish(self, index: BlobIndex) -> int:
        """Write index and footer and flush the file; return its size in bytes."""
        at = self._file.tell()
        payload = index.to_json()
        self.add(INDEX, payload, level=19)
        end = self._file.tell() + _FOOTER_SIZE
        footer = _FOOTER.pack(END_MAGIC, at, end, hashlib.sha256(payload).digest())
        self._file.write(footer + _CRC.pack(zlib.crc32(footer)))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return end

    def close(self) -> None:
        """Close the file as it is."""
        self._file.close()


class BlobReader:
    """Reads a blob; every section is checked against its SHA-256 when it is first used.

    Raises
    ------
    BlobFormatError
        When it is opened and header, footer or index do not hold.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise BlobFormatError(f"{path.name} is empty") from None
        self._view = memoryview(self._map)
        self._checked: set[int] = set()
        try:
            self.id, self._offsets, self.index = self._open()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "BlobReader":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file; pieces that somebody still holds keep it mapped until they are gone."""
        with suppress(BufferError):
            self._view.release()
            self._map.close()

    @property
    def size(self) -> int:
        """Of the file, in bytes."""
        return len(self._map)

    @property
    def n_sections(self) -> int:
        """Sections in the file, the index included."""
        return len(self._offsets)

    def section_kind(self, number: int) -> bytes:
        """Return the kind of a section."""
        return bytes(_SECTION.unpack_from(self._view, self._offset(number))[0])

    def section_sizes(self, number: int) -> tuple[int, int]:
        """Return (bytes in the file, bytes after decompression) of a section's payload."""
        _, _, stored, size, _ = _SECTION.unpack_from(self._view, self._offset(number))
        return int(stored), int(size)

    def section(self, number: int) -> memoryview | bytes:
        """Return a section's payload, decompressed.

        Raises
        ------
        DamagedError
            If the bytes in the file do not match their checksum.
        """
        at = self._offset(number)
        kind, method, length, size, digest = _SECTION.unpack_from(self._view, at)
        stored = self._view[at + _SECTION.size : at + _SECTION.size + length]
        if number not in self._checked:
            if hashlib.sha256(stored).digest() != digest:
                raise DamagedError(
                    f"{self.path.name}: section {number} ({kind.decode('latin-1')}) is damaged"
                )
            self._checked.add(number)
        if method == STORED:
            return stored
        try:
            return zstandard.ZstdDecompressor().decompress(stored, max_output_size=size)
        except zstandard.ZstdError as error:
            raise DamagedError(f"{self.path.name}: section {number}: {error}") from None

    def _offset(self, number: int) -> int:
        if not 0 <= number < len(self._offsets):
            raise BlobFormatError(f"{self.path.name} has no section {number}")
        return self._offsets[number]

    def _open(self) -> tuple[uuid.UUID, list[int], BlobIndex]:
        name, total = self.path.name, len(self._view)
        if total < _HEADER.size + _SECTION.size + _FOOTER_SIZE:
            raise BlobFormatError(f"{name} is too short for a blob")
        magic, version, _, _, blob_id = _HEADER.unpack_from(self._view)
        if magic != MAGIC:
            raise BlobFormatError(f"{name} is not a blob")
        if version > VERSION:
            raise BlobFormatError(f"{name} has format version {version}; this program reads up to {VERSION}")
        footer = self._view[total - _FOOTER_SIZE :]
        end_magic, index_at, size, digest = _FOOTER.unpack_from(footer)
        crc = _CRC.unpack_from(footer, _FOOTER.size)[0]
        if end_magic != END_MAGIC or size != total or zlib.crc32(footer[: _FOOTER.size]) != crc:
            raise BlobFormatError(f"{name} has no valid footer: it is truncated or damaged")
        offsets = self._section_offsets(index_at, total - _FOOTER_SIZE)
        self._offsets = offsets
        if self.section_sizes(len(offsets) - 1)[1] > LARGEST_INDEX:
            raise BlobFormatError(f"{name}: the index is too large")
        payload = bytes(self.section(len(offsets) - 1))
        if hashlib.sha256(payload).digest() != digest:
            raise DamagedError(f"{name}: the index is damaged")
        return uuid.UUID(bytes=blob_id), offsets, BlobIndex.from_json(payload)

    def _section_offsets(self, index_at: int, end: int) -> list[int]:
        offsets: list[int] = []
        at = _HEADER.size
        while at + _SECTION.size <= end:
            offsets.append(at)
            length = _SECTION.unpack_from(self._view, at)[2]
            at += _SECTION.size + length + -length % _ALIGNMENT
        if at != end or not offsets or offsets[-1] != index_at:
            raise BlobFormatError(f"{self.path.name}: sections do not fill the file")
        return offsets
