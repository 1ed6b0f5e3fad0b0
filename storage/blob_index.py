"""What a blob says of itself: the index, as typed values and as JSON.

A reader believes nothing in it before `BlobIndex.from_json` has checked that types, ranges and numbers fit
together; `docs/blob-format.md` lists what is checked.
"""

import json
import re
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from dcmpress.storage.errors import BlobFormatError
from dcmpress.storage.received import Form
from dcmpress.storage.split import PixelFormat

PLAIN = "zstd"
"""The codec that stands for what has no frames."""

_LARGEST = 1 << 62
_DIGEST = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class BlobReceived:
    """What was received where the data set that is kept is another encoding of it; its bytes are not kept."""

    transfer_syntax_uid: str
    size: int
    sha256: str

    @classmethod
    def of(cls, form: Form) -> "BlobReceived":
        """Return what the index says of a data set."""
        return cls(form.transfer_syntax_uid, form.size, form.sha256.hex())

    @property
    def form(self) -> Form:
        """The same, as the catalog has it."""
        return Form(self.transfer_syntax_uid, self.size, bytes.fromhex(self.sha256))


@dataclass(frozen=True)
class BlobInstance:
    """One instance in a blob's index."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    size: int
    """Of the data set that is kept, in bytes: as received, unless `received` says otherwise."""
    sha256: str
    """Of the data set that is kept, hexadecimal."""
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
    received: BlobReceived | None = None
    """What came, if its bytes are not kept."""


@dataclass(frozen=True)
class BlobSegment:
    """Frames that one codec stream holds; all of one pixel format."""

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
    """The instances of a blob, and which segment holds which of their frames."""

    writer: str
    created_at: str
    instances: list[BlobInstance] = field(default_factory=list)
    pixel_formats: list[PixelFormat] = field(default_factory=list)
    segments: list[BlobSegment] = field(default_factory=list)

    def coded_bytes(self) -> dict[str, int]:
        """Return what each codec coded, in bytes before compression; `PLAIN` for data sets without frames too."""
        coded: dict[str, int] = {}
        for segment in self.segments:
            pixel_format = self.pixel_formats[self.instances[segment.frames[0][0]].pixel_format]
            size = len(segment.frames) * pixel_format.frame_bytes
            coded[segment.codec] = coded.get(segment.codec, 0) + size
        for instance in self.instances:
            if not instance.n_frames:
                coded[PLAIN] = coded.get(PLAIN, 0) + instance.size
        return coded

    def main_codec(self) -> str:
        """Return the codec that coded most: the one that the blob is listed under."""
        coded = self.coded_bytes()
        return max(coded, key=coded.__getitem__, default=PLAIN)

    def to_json(self) -> bytes:
        """Return the index as UTF-8 JSON."""
        tree = asdict(self)
        for instance in tree["instances"]:
            if instance["received"] is None:
                del instance["received"]
        return json.dumps(tree, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> "BlobIndex":
        """Read what `to_json` wrote; keys that this version does not know are left aside.

        Raises
        ------
        BlobFormatError
            If it is not an index, or it contradicts itself.
        """
        try:
            tree = json.loads(data)
            index = cls(
                writer=_text(tree["writer"]),
                created_at=_time(tree["created_at"]),
                instances=[_instance(item) for item in tree["instances"]],
                pixel_formats=[PixelFormat(**_known(PixelFormat, item)) for item in tree["pixel_formats"]],
                segments=[BlobSegment(**_known(BlobSegment, item)) for item in tree["segments"]],
            )
            for pixel_format in index.pixel_formats:
                _check_pixel_format(pixel_format)
            for instance in index.instances:
                _check_instance(instance, index.pixel_formats)
            for segment in index.segments:
                _check_segment(segment, index.instances)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError) as error:
            raise BlobFormatError(f"the index is not readable: {error!r}") from None
        return index


def _instance(item: dict[str, Any]) -> BlobInstance:
    values = _known(BlobInstance, item)
    if values.get("received") is not None:
        values["received"] = BlobReceived(**_known(BlobReceived, values["received"]))
    return BlobInstance(**values)


def _known(kind: type, item: dict[str, Any]) -> dict[str, Any]:
    return {name: item[name] for name in kind.__dataclass_fields__ if name in item}  # type: ignore[attr-defined]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not text")
    return value


def _time(value: Any) -> str:
    if datetime.fromisoformat(_text(value)).tzinfo is None:
        raise ValueError(f"{value!r} has no time zone")
    return str(value)


def _number(value: Any, low: int, high: int) -> None:
    """Raise ValueError unless `value` is an integer with low <= value < high."""
    if type(value) is not int or not low <= value < high:
        raise ValueError(f"{value!r} is not an integer from {low} to {high - 1}")


def _check_pixel_format(pixel_format: PixelFormat) -> None:
    _number(pixel_format.rows, 1, 1 << 16)
    _number(pixel_format.columns, 1, 1 << 16)
    _number(pixel_format.samples, 1, 5)
    for flag in (pixel_format.signed, pixel_format.by_plane, pixel_format.big_endian):
        if type(flag) is not bool:
            raise ValueError(f"{flag!r} is not true or false")
    if type(pixel_format.bits_allocated) is not int or pixel_format.bits_allocated not in (8, 16, 32):
        raise ValueError(f"{pixel_format.bits_allocated!r} bits allocated")


def _check_instance(instance: BlobInstance, pixel_formats: list[PixelFormat]) -> None:
    for text in (instance.sop_class_uid, instance.sop_instance_uid, instance.transfer_syntax_uid):
        _text(text)
    for text in (instance.calling_ae, instance.called_ae, instance.remote_host):
        _text(text)
    _time(instance.received_at)
    _check_digest(instance.sha256)
    if instance.received is not None:
        _text(instance.received.transfer_syntax_uid)
        _number(instance.received.size, 0, _LARGEST)
        _check_digest(instance.received.sha256)
    for extent in (instance.size, instance.offset, instance.head, instance.tail, instance.n_frames):
        _number(extent, 0, _LARGEST)
    _number(instance.section, 0, 1 << 32)
    size = instance.head + instance.tail
    if instance.n_frames:
        _number(instance.pixel_format, 0, len(pixel_formats))
        size += instance.n_frames * pixel_formats[instance.pixel_format].frame_bytes
    if size != instance.size:
        raise ValueError(f"shell and frames make {size} bytes of {instance.size}")


def _check_digest(value: Any) -> None:
    if not _DIGEST.fullmatch(_text(value)):
        raise ValueError(f"{value!r} is not a SHA-256")


def _check_segment(segment: BlobSegment, instances: list[BlobInstance]) -> None:
    _number(segment.section, 0, 1 << 32)
    _number(segment.format_version, 0, 1 << 32)
    _text(segment.codec)
    if not isinstance(segment.parameters, dict):
        raise ValueError("parameters are not an object")
    n = len(segment.frames)
    if not n or not n == len(segment.references) == len(segment.shifts):
        raise ValueError("a segment's lists are empty or differ in length")
    for instance, frame in segment.frames:
        _number(instance, 0, len(instances))
        _number(frame, 0, instances[instance].n_frames)
    if len({instances[instance].pixel_format for instance, _ in segment.frames}) != 1:
        raise ValueError("a segment's frames differ in pixel format")
    for i, reference in enumerate(segment.references):
        _number(reference, -1, i)
    for dy, dx in segment.shifts:
        _number(dy, -(1 << 16), 1 << 16)
        _number(dx, -(1 << 16), 1 << 16)
    for offset in segment.offsets:
        _number(offset, 0, _LARGEST)
