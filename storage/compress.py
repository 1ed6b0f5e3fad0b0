"""From spool files to one verified blob. A pure step: it reads the spool, writes one staged file, and
touches neither the catalog nor the spool, so it can run in any process and be repeated after a crash.
"""

import errno
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from dcmpress import __version__
from dcmpress.codecs.registry import get_codec
from dcmpress.storage.blob import DATA, FRAMES, SHELLS, BlobWriter
from dcmpress.storage.blob_index import BlobIndex, BlobInstance, BlobReceived, BlobSegment
from dcmpress.storage.encapsulated import find_encapsulated
from dcmpress.storage.encoded import Encoded, encode_by
from dcmpress.storage.errors import DamagedError, MissingError
from dcmpress.storage.grouping import FramePosition, coding_order, group_frames
from dcmpress.storage.join import InstanceReader
from dcmpress.storage.natives import differing, make_native
from dcmpress.storage.position import frame_positions
from dcmpress.storage.received import Form
from dcmpress.storage.reconstruct import SegmentLimits, reconstructed_segments, reconstructing
from dcmpress.storage.source import Source, digest_of, mapped, received_form
from dcmpress.storage.split import PixelFormat, pixel_format_of, split
from dcmpress.storage.spool import SpoolEntry

SHELL_CHUNK = 1 << 20
"""Shells compressed together, in bytes before compression: neighbours in a series are nearly the same."""

LARGEST_SOLID_SHELL = 1 << 17
"""A shell (or a data set without frames) beyond this gets a section of its own."""

SHELL_LEVEL = 19
DATA_LEVEL = 12
"""Zstandard levels: a group's shells are small and worth every byte; whole data sets can be large."""

FALLBACK = "zstd"

KEEPS_AS_RECEIVED = (FALLBACK, "store")
"""With these codecs a rule asks for no more than the bytes."""

WORTH_IT = 0.95
"""Coded frames over the compressed images as received: above this the received bytes are worth more."""

_PIECE = 1 << 20


@dataclass(frozen=True)
class CodecChoice:
    """A codec by name, with parameters, as a rule of the config says."""

    codec: str
    parameters: dict[str, Any] = field(default_factory=dict)
    pixel_exact: bool = False
    """Losslessly compressed images whose bytes cannot be made again are kept as samples (`pixel_exact`)."""


@dataclass(frozen=True)
class CompressJob:
    """What one blob is made of."""

    entries: list[SpoolEntry]
    spool_folder: str
    staged: str
    """Path of the file to write; must not exist."""
    choice: CodecChoice
    max_chain: int = 16
    min_correlation: float = 0.5
    segment_bytes: int = 32 << 20
    received: Mapping[str, Form] = field(default_factory=dict)
    """Spool name -> what was received, where the file holds what an earlier blob has kept in its place."""


@dataclass
class CompressResult:
    """What became of a job."""

    size: int = 0
    """Of the blob, in bytes."""
    raw_size: int = 0
    """Of the data sets in it, in bytes."""
    received_size: int = 0
    """Of the data sets in the spool that are in it."""
    forms: dict[str, Form] = field(default_factory=dict)
    """Spool name -> the data set that is kept in place of the one in the spool."""
    gainless: set[str] = field(default_factory=set)
    """Spool names of instances that such a data set makes no smaller."""
    order: list[str] = field(default_factory=list)
    """Spool names in the order of the blob's instances."""
    damaged: dict[str, str] = field(default_factory=dict)
    """Spool name -> problem: the spool file is not what was acknowledged; it is not in the blob."""
    codec: str = ""
    """The codec that coded most of it, see `BlobIndex.main_codec`."""
    outdone: int = 0
    """Segments that Zstandard made smaller than the chosen codec: very little, or very plain."""
    fallbacks: list[str] = field(default_factory=list)
    """Why a segment was not kept as the chosen codec made it: it failed, or does not take such samples."""
    seconds: float = 0.0
    """CPU time of this process."""


def compress(job: CompressJob) -> CompressResult:
    """Write the blob of a job, decode it again, and compare every instance with what was received.

    The chosen codec may fail in any way that leaves this process alive: its segment, or in the end the
    whole blob, is then kept by Zstandard.

    Raises
    ------
    OSError
        If the disk is full or fails. The staged file is removed.
    DamagedError
        If even the fallback does not verify: the machine cannot be trusted.
    """
    started = time.process_time()
    path = Path(job.staged)
    try:
        result, problem = _write_and_verify(job, path)
        if problem:
            path.unlink()
            first_try = result
            result = _write(job, path, CodecChoice(FALLBACK))
            result.fallbacks = [*first_try.fallbacks, f"{job.choice.codec} did not verify: {problem}"]
            problem = _verify(path, result)
            if problem:
                raise DamagedError(f"the fallback does not verify either: {problem}")
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    result.seconds = time.process_time() - started
    return result


def _write_and_verify(job: CompressJob, path: Path) -> tuple[CompressResult, str]:
    """Write the blob by the chosen codec; return what became of it, and what does not hold, or "".

    What turns out not to gain, or not to be certain, as samples is then kept as it came: the blob is written anew.
    """
    as_received: set[str] = set()
    doubts: list[str] = []
    while True:
        result = _write(job, path, job.choice, as_received)
        result.fallbacks += doubts
        unfit = result.gainless
        if not unfit:
            problem = _verify(path, result)
            unfit = set() if problem else differing(job.entries, job.spool_folder, result.forms)
            if not unfit:
                return result, problem
            doubts.append(f"two decoders differ: {len(unfit)} instances are kept as they came")
        path.unlink()
        as_received |= unfit


def _write(
    job: CompressJob,
    path: Path,
    choice: CodecChoice,
    as_received: Set[str] = frozenset(),
) -> CompressResult:
    result = CompressResult()
    index = BlobIndex(writer=f"dcmpress {__version__}", created_at=datetime.now(UTC).isoformat())
    sources = list(_open_all(job, result))
    sources = [sources[i] for i in coding_order([s.positions[0] for s in sources])]
    scratch: Any = TemporaryFile(dir=path.parent) if choice.pixel_exact else nullcontext()  # noqa: SIM115
    with closing(BlobWriter(path)) as writer, scratch as natives:
        formats = list(dict.fromkeys(s.split.pixel_format for s in sources if s.split))
        index.pixel_formats = formats
        for pixel_format in formats:
            _write_frames(job, choice, sources, pixel_format, writer, index, result)
        if choice.codec not in KEEPS_AS_RECEIVED:
            _write_reconstructed(job, choice, sources, formats, writer, index, result)
            if natives is not None:
                wanted = [s for s in sources if s.entry.name not in as_received]
                _write_natives(job, choice, sources, wanted, natives, formats, writer, index, result)
        _write_shells(job, sources, formats, writer, index, result)
        result.size = writer.finish(index)
    result.codec = index.main_codec()
    result.order = [source.entry.name for source in sources]
    result.raw_size = sum(source.kept.size for source in sources)
    result.received_size = sum(source.entry.size for source in sources)
    return result


def _open_all(job: CompressJob, result: CompressResult) -> Iterator[Source]:
    for arrival, entry in enumerate(job.entries):
        path = Path(job.spool_folder) / f"{entry.name}.dcm"
        try:
            # Read, not mapped: a bad sector is an error here, and would be a signal there.
            intact = digest_of(path, entry.offset) == entry.sha256
        except FileNotFoundError:
            result.damaged[entry.name] = "the spool file is missing"
            continue
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            result.damaged[entry.name] = f"the spool file cannot be read: {error}"
            continue
        if not intact:
            result.damaged[entry.name] = "the spool file does not match its SHA-256"
            continue
        if entry.size == 0:
            yield Source(entry, path, None, [FramePosition(arrival=arrival)])
            continue
        with mapped(entry, path) as data:
            yield _source(entry, path, data, arrival)


def _source(entry: SpoolEntry, path: Path, data: memoryview, arrival: int) -> Source:
    syntax = entry.meta.transfer_syntax_uid
    found, _ = split(data, syntax)
    if found is not None:
        return Source(entry, path, found, frame_positions(data, found.elements, found.n_frames, arrival))
    images = find_encapsulated(data, syntax)
    if images is None:
        return Source(entry, path, None, [FramePosition(arrival=arrival)])
    image_format, _ = pixel_format_of(data, images.elements, syntax)
    positions = frame_positions(data, images.elements, len(images.images), arrival)
    return Source(entry, path, None, positions, images, image_format)


def _write_frames(
    job: CompressJob,
    choice: CodecChoice,
    sources: Sequence[Source],
    pixel_format: PixelFormat,
    writer: BlobWriter,
    index: BlobIndex,
    result: CompressResult,
    *,
    of_natives: bool = False,
) -> int:
    """Write all frames of one pixel format, in segments that a reader can hold; return their bytes."""
    places = [
        (i, frame)
        for i, source in enumerate(sources)
        if source.split and source.split.pixel_format == pixel_format and of_natives == bool(source.native)
        for frame in range(source.split.n_frames)
    ]
    size = 0
    ordered = coding_order([sources[i].positions[frame] for i, frame in places])
    per_segment = max(1, job.segment_bytes // pixel_format.frame_bytes)
    # Segments of equal length: a last one of a few frames would carry its tables for nothing.
    n_segments = -(-len(ordered) // per_segment)
    for k in range(n_segments):
        part = ordered[k * len(ordered) // n_segments : (k + 1) * len(ordered) // n_segments]
        chosen = [places[p] for p in part]
        frames = np.concatenate([_frame(sources[i], frame) for i, frame in chosen])
        group = group_frames(frames, max_chain=job.max_chain, min_correlation=job.min_correlation)
        encoded = _encode(choice, frames, group.references, group.shifts, result)
        size += len(encoded.payload)
        index.segments.append(
            BlobSegment(
                section=writer.add(FRAMES, encoded.payload),
                codec=encoded.codec,
                parameters=encoded.parameters,
                format_version=encoded.format_version,
                frames=chosen,
                references=group.references,
                shifts=group.shifts,
                offsets=encoded.offsets,
            )
        )
    return size


def _write_natives(
    job: CompressJob,
    choice: CodecChoice,
    sources: Sequence[Source],
    wanted: Sequence[Source],
    scratch: IO[bytes],
    formats: list[PixelFormat],
    writer: BlobWriter,
    index: BlobIndex,
    result: CompressResult,
) -> None:
    """Write the samples of what arrived losslessly compressed, and is not taken apart to come back to the byte."""
    made: dict[PixelFormat, list[Source]] = {}
    for source in wanted:
        if source.split is None and source.encapsulated is not None:
            make_native(source, scratch)
        if source.split is not None and source.native is not None:
            made.setdefault(source.split.pixel_format, []).append(source)
    for pixel_format, natives in made.items():
        if pixel_format not in formats:
            formats.append(pixel_format)
        size = _write_frames(job, choice, sources, pixel_format, writer, index, result, of_natives=True)
        before = sum(s.encapsulated.end - s.encapsulated.start for s in natives if s.encapsulated)
        if size > WORTH_IT * before:
            result.gainless |= {source.entry.name for source in natives}
        result.forms |= {source.entry.name: source.kept for source in natives}


def _write_reconstructed(
    job: CompressJob,
    choice: CodecChoice,
    sources: Sequence[Source],
    formats: list[PixelFormat],
    writer: BlobWriter,
    index: BlobIndex,
    result: CompressResult,
) -> None:
    """Write what arrived compressed and can be made smaller all the same."""
    try:
        codec = reconstructing(choice.codec, choice.parameters)
    except ValueError as error:
        result.fallbacks.append(f"reconstruct: {error}")
        return
    limits = SegmentLimits(job.segment_bytes, job.max_chain, job.min_correlation)
    for segment in reconstructed_segments(sources, codec, limits):
        if segment.pixel_format not in formats:
            formats.append(segment.pixel_format)
        if segment.problem:
            result.fallbacks.append(segment.problem)
        result.outdone += segment.outdone
        encoded, n_rows = segment.encoded, len(segment.rows)
        index.segments.append(
            BlobSegment(
                section=writer.add(FRAMES, encoded.payload),
                codec=encoded.codec,
                parameters=encoded.parameters,
                format_version=encoded.format_version,
                frames=segment.places,
                references=[-1] * n_rows,
                shifts=[(0, 0)] * n_rows,
                offsets=[],
            )
        )


def _frame(source: Source, frame: int) -> NDArray[Any]:
    assert source.split is not None
    pixel_format = source.split.pixel_format
    start = source.split.start + frame * pixel_format.frame_bytes
    return pixel_format.to_frames(source.read(start, start + pixel_format.frame_bytes))


def _encode(
    choice: CodecChoice,
    frames: NDArray[Any],
    references: list[int],
    shifts: list[tuple[int, int]],
    result: CompressResult,
) -> Encoded:
    """Encode by the chosen codec, or by the fallback where that is smaller or the codec fails."""
    if choice.codec == FALLBACK:
        return encode_by(get_codec(FALLBACK, **choice.parameters), frames)
    fallback = get_codec(FALLBACK)
    try:
        codec = get_codec(choice.codec, **choice.parameters)
        if frames.dtype.name not in codec.dtypes:
            result.fallbacks.append(f"{choice.codec} does not take {frames.dtype.name}")
            return encode_by(fallback, frames)
        encoded = encode_by(codec, frames, references, shifts if any(map(any, shifts)) else None)
    except Exception as error:  # whatever a codec does, the store goes on
        result.fallbacks.append(f"{choice.codec} failed: {error!r}")
        return encode_by(fallback, frames)
    # Zstandard wins on very little; trying it on a sample tells where it may.
    sample = frames[:: max(1, len(frames) // 4)]
    if len(fallback.encode(sample)) * len(frames) < 1.25 * len(encoded.payload) * len(sample):
        packed = encode_by(fallback, frames)
        if len(packed.payload) <= len(encoded.payload):
            result.outdone += 1
            return packed
    return encoded


def _write_shells(
    job: CompressJob,
    sources: Sequence[Source],
    formats: list[PixelFormat],
    writer: BlobWriter,
    index: BlobIndex,
    result: CompressResult,
) -> None:
    """Write what is outside the frames and list the instances; small shells are packed together."""
    waiting: list[bytes] = []
    waiting_size = 0
    listed: dict[int, tuple[int, int]] = {}  # source -> (section, offset)
    unsettled: list[tuple[int, int]] = []  # (source, offset) in the section to be written next

    def flush() -> None:
        nonlocal waiting_size
        if unsettled:  # an empty data set has a place too
            section = writer.add(SHELLS, b"".join(waiting), level=SHELL_LEVEL)
            listed.update({i: (section, offset) for i, offset in unsettled})
            waiting.clear()
            unsettled.clear()
            waiting_size = 0

    for i, source in enumerate(sources):
        size = _shell_size(source)
        if size > LARGEST_SOLID_SHELL:
            pieces = partial(_shell, source)
            listed[i] = (writer.add_pieces(DATA, pieces, size, level=DATA_LEVEL), 0)
            continue
        if waiting_size + size > SHELL_CHUNK:
            flush()
        unsettled.append((i, waiting_size))
        waiting.extend(_shell(source))
        waiting_size += size
    flush()

    for i, source in enumerate(sources):
        section, offset = listed[i]
        entry, kept = source.entry, source.kept
        head = source.split.start if source.split else kept.size
        came = job.received.get(entry.name) or (received_form(entry) if source.native else None)
        index.instances.append(
            BlobInstance(
                sop_class_uid=entry.meta.sop_class_uid,
                sop_instance_uid=entry.meta.sop_instance_uid,
                transfer_syntax_uid=kept.transfer_syntax_uid,
                size=kept.size,
                sha256=kept.sha256.hex(),
                received_at=entry.received_at.isoformat(),
                calling_ae=entry.sender.calling_ae,
                called_ae=entry.sender.called_ae,
                remote_host=entry.sender.remote_host,
                section=section,
                offset=offset,
                head=head,
                tail=_shell_size(source) - head,
                n_frames=source.split.n_frames if source.split else 0,
                pixel_format=formats.index(source.split.pixel_format) if source.split else -1,
                received=BlobReceived.of(came) if came else None,
            )
        )


def _shell_size(source: Source) -> int:
    return source.kept.size - (source.split.end - source.split.start if source.split else 0)


def _shell(source: Source) -> Iterator[bytes]:
    """Yield what is outside the frames, piece by piece."""
    end = source.kept.size
    parts = [(0, source.split.start), (source.split.end, end)] if source.split else [(0, end)]
    for start, stop in parts:
        for at in range(start, stop, _PIECE):
            yield source.read(at, min(at + _PIECE, stop))


def _verify(path: Path, result: CompressResult) -> str:
    """Decode every instance from the file as it lies on disk; return what does not hold, or ""."""
    try:
        with InstanceReader(path) as reader:
            if len(reader.blob.index.instances) != len(result.order):
                return "instances are missing from the index"
            for number, instance in enumerate(reader.blob.index.instances):
                digest = hashlib.sha256()
                size = 0
                for piece in reader.pieces(number):
                    digest.update(piece)
                    size += memoryview(piece).nbytes
                if size != instance.size or digest.hexdigest() != instance.sha256:
                    return f"{instance.sop_instance_uid} differs"
    except (DamagedError, MissingError, MemoryError) as error:
        return str(error) or repr(error)
    return ""
