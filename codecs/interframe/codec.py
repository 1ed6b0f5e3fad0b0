"""The flagship: one container and frame preparation, three cores, three efforts.

Payload, after the header of `dcmpress.codecs.stream`:

    1 byte    0: the samples follow as they are (little endian); 1: forward core; 2, 3: backward core,
              revision 1 and 2; 4: graphics core
    1 byte    flags: 1 explicit references, 2 shifts, 4 duplicates
    ...       duplicates, references, shifts, colour transform, palette or tables by frame, layers
    ...       varint length of each part: for each section, stripe and layer
    ...       the parts

docs/codec-interframe.md describes all of it. Version 2 of the format adds core 3 and palettes, version 3 core 4 and
tables of values by frame; a stream is written as the lowest version that has what it uses.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.base import MAX_PIXELS, Codec, check_frames, check_references, check_shifts, decoded
from dcmpress.codecs.bits import ByteReader, put_signed, put_varint
from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.interframe import forward, graphics
from dcmpress.codecs.interframe.analysis import BALANCED, FAST
from dcmpress.codecs.interframe.colour_choice import choose_colours, choose_transform
from dcmpress.codecs.interframe.graphics_choice import Graphics, choose_graphics
from dcmpress.codecs.interframe.palette import from_ranks, put_palette, read_palette, to_ranks
from dcmpress.codecs.interframe.parts import CHAIN, Part, between_kept, default_references, duplicates
from dcmpress.codecs.interframe.planes import (
    DIFFERENCES,
    NO_TRANSFORM,
    Layer,
    components_of,
    find_layers,
    frames_from,
    put_layers,
    read_layers,
)
from dcmpress.codecs.interframe.tables import (
    Tables,
    find_tables,
    from_own_ranks,
    put_tables,
    read_tables,
    to_own_ranks,
)
from dcmpress.codecs.stream import read_stream, write_stream

MAGIC = b"DCIF"
MAX_THREADS = os.cpu_count() or 1
"""Cores that one call may use when there is much to do."""
MAX_COLUMNS = 65_535
"""Wider frames are not images, and are stored."""
SECTION_SAMPLES = 1 << 20
STRIPE_SAMPLES = 1 << 22
_STORED, _FORWARD, _BACKWARD, _BACKWARD_2, _GRAPHICS = 0, 1, 2, 3, 4
_VERSION_OF = {_STORED: 1, _FORWARD: 1, _BACKWARD: 1, _BACKWARD_2: 2, _GRAPHICS: 3}
"""Core -> version of the format that it came with."""
_PALETTE, _OWN_TABLES = 3, 4  # beside the colour transforms
_LAST_TRANSFORM = {1: DIFFERENCES, 2: _PALETTE, 3: _OWN_TABLES}
"""Version of the format -> last transform that it has."""
_EXPLICIT, _SHIFTED, _DUPLICATES = 1, 2, 4

Array = NDArray[Any]
Job = Callable[[], Iterable[Any]]
Encoder = Callable[[Array, int, Part], bytes]


@dataclass(frozen=True)
class InterframeCodec(Codec):
    """Predicts frames from themselves and from the frames they refer to.

    Parameters
    ----------
    effort : {"fast", "balanced", "dense"}
        What `encode` spends. `decode` reads all of them.
    """

    effort: str = "balanced"

    codec_id: ClassVar[str] = "interframe"
    format_version: ClassVar[int] = 3
    dtypes: ClassVar[tuple[str, ...]] = ("uint8", "int8", "uint16", "int16", "uint32", "int32")
    uses_references: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.effort not in ("fast", "balanced", "dense"):
            raise ValueError(f"effort must be fast, balanced or dense, not {self.effort!r}")
        if self.effort == "dense":
            _backward()

    def encode(
        self,
        frames: NDArray[Any],
        references: Sequence[int] | None = None,
        *,
        shifts: Sequence[tuple[int, int]] | None = None,
    ) -> bytes:
        frames = check_frames(self, frames)
        explicit = check_references(references, len(frames))
        moved = check_shifts(shifts, len(frames))
        payload, version = None, 1
        if frames.shape[2] <= MAX_COLUMNS:
            payload, version = _encode(frames, explicit, moved, self.effort)
        if payload is None or len(payload) > frames.nbytes:
            payload = bytes([_STORED]) + frames.astype(frames.dtype.newbyteorder("<"), copy=False).tobytes()
            version = 1
        return write_stream(MAGIC, version, frames, payload)

    def decode(
        self, data: bytes, select: Sequence[int] | None = None, *, max_pixels: int = MAX_PIXELS
    ) -> NDArray[Any]:
        return decoded(*self.decode_stepwise(data, select, max_pixels=max_pixels))

    def decode_stepwise(
        self, data: bytes, select: Sequence[int] | None = None, *, max_pixels: int = MAX_PIXELS
    ) -> tuple[NDArray[Any], Iterator[int]]:
        header, payload = read_stream(data, MAGIC, self.format_version, max_pixels)
        n = header.shape[0]
        wanted = list(range(n)) if select is None else [int(i) for i in select]
        for i in wanted:
            if not 0 <= i < n:
                raise IndexError(f"no frame {i} in a stream of {n}")
        return _decode(payload, header.shape, header.dtype, wanted, header.version)


def _backward() -> Any:
    """Return the module of the backward-adaptive core."""
    try:
        from dcmpress.codecs.interframe import backward  # type: ignore[attr-defined,unused-ignore]
    except ImportError:
        raise ValueError("effort 'dense' is not part of this build") from None
    return backward


def _run(jobs: list[Job], n_samples: int) -> Iterator[Any]:
    """Run the jobs, on several cores if there is enough to do, and yield what they yield, in order."""
    workers = min(len(jobs), MAX_THREADS)
    if n_samples < STRIPE_SAMPLES or workers < 2:
        for job in jobs:
            yield from job()
        return
    with ThreadPoolExecutor(workers) as pool:
        for results in pool.map(lambda job: list(job()), jobs):
            yield from results


def _sections(references: Sequence[int], samples: int) -> list[tuple[int, int]]:
    """Cut frames into runs of at least SECTION_SAMPLES that refer only to frames of their own."""
    n = len(references)
    earliest = n
    closed = [False] * n + [True]  # closed[i]: nothing from i on refers to a frame before i
    for i in range(n - 1, -1, -1):
        earliest = min(earliest, references[i] if references[i] >= 0 else i)
        closed[i] = earliest >= i
    cuts = [0]
    for i in range(1, n):
        if closed[i] and (i - cuts[-1]) * samples >= SECTION_SAMPLES:
            cuts.append(i)
    return list(zip(cuts, [*cuts[1:], n], strict=True))


def _stripes(rows: int, columns: int) -> list[tuple[int, int]]:
    """Cut a large frame into stripes of rows that are coded each for itself."""
    count = min(rows, -(-rows * columns // STRIPE_SAMPLES))
    return [(rows * k // count, rows * (k + 1) // count) for k in range(count)]


def _encode(
    frames: Array, references: list[int] | None, shifts: list[tuple[int, int]] | None, effort: str
) -> tuple[bytes, int]:
    """Return the payload, and the version of the format that it needs."""
    twins = duplicates(frames)
    kept = np.array([i for i, j in enumerate(twins) if i == j])
    position = {int(i): k for k, i in enumerate(kept)}
    own = between_kept(references, twins, position)
    tables = find_tables(frames, kept)
    if tables is not None:
        frames = to_own_ranks(frames, tables, [tables.of_frame[position[j]] for j in twins])
    drawn = choose_graphics(frames, kept, own)
    given = _Given(frames, references, shifts, twins, kept, position, tables)
    if effort != "dense" or drawn is None:
        return _encode_given(given, effort, drawn)
    # The choice asks what beats the forward core. Beside the backward core, the graphics core costs little to try.
    return min((_encode_given(given, effort, way) for way in (None, drawn)), key=lambda coded: len(coded[0]))


@dataclass(frozen=True)
class _Given:
    """Frames to encode, and what is known of them before a core is chosen."""

    frames: Array
    """As ranks, if they have tables of their own."""
    references: list[int] | None
    shifts: list[tuple[int, int]] | None
    twins: list[int]
    """Of each frame: the first one that equals it."""
    kept: Array
    """Indices of the frames that are coded."""
    position: dict[int, int]
    """Index of a frame that is coded -> its place in `kept`."""
    tables: Tables | None


def _encode_given(given: _Given, effort: str, drawn: Graphics | None) -> tuple[bytes, int]:
    """Return what `_encode` does, by the graphics core if it is told how, else by the core of the effort."""
    frames, references, twins, kept = given.frames, given.references, given.twins, given.kept
    position, shifts, tables = given.position, given.shifts, given.tables
    own = between_kept(references, twins, position)
    backward = effort == "dense" and drawn is None
    if references is None and (backward or drawn is not None):
        # These cores have no index of frames; this keeps every stream at a byte a frame or more. They decode
        # a section from its start, so a frame without reference inside one would bring nothing.
        references = default_references(len(frames), max(CHAIN, -(-SECTION_SAMPLES // frames[0].size)))
        own = between_kept(references, twins, position)
    flags = _EXPLICIT if references is not None else 0
    out = bytearray()
    if len(kept) < len(frames):
        flags |= _DUPLICATES
        for i, j in enumerate(twins):
            put_varint(out, i - j)
    own_shifts: list[tuple[int, int]] | None = None
    if references is not None:
        for k, r in enumerate(own):
            put_varint(out, k - r if r >= 0 else 0)
        limit = 1 << 15
        if shifts is not None and any(s != (0, 0) for s in shifts):
            flags |= _SHIFTED
            own_shifts = [
                (max(-limit, min(limit, shifts[i][0])), max(-limit, min(limit, shifts[i][1]))) for i in kept
            ]
            for dy, dx in own_shifts:
                put_signed(out, dy)
                put_signed(out, dx)

    if drawn is None:
        transform, palette = _choose_colours(frames, kept, effort)
    else:
        transform, palette = NO_TRANSFORM, drawn.palette
    if tables is not None:
        out.append(_OWN_TABLES)
        put_tables(out, tables)
    elif palette is not None:
        frames = to_ranks(frames, palette)
        out.append(_PALETTE)
        put_palette(out, palette)
    else:
        out.append(transform)
    layers = find_layers(frames, transform, kept, backward) if drawn is None else drawn.layers
    put_layers(out, layers)
    encoders = [_encoder(effort, None if drawn is None else drawn.by_symbols[k]) for k in range(len(layers))]
    rows, columns = frames.shape[1:3]
    stripes = _stripes(rows, columns)
    jobs = []
    for first, end in _sections(own, frames[0].size):
        for top, bottom in stripes:
            part = Part(own, own_shifts, first, end, top, bottom, columns)
            jobs.append(_encode_job(frames, kept, layers, transform, part, encoders))
    blobs = list(_run(jobs, frames.size))
    for blob in blobs:
        put_varint(out, len(blob))
    core = _BACKWARD_2 if backward else _FORWARD if drawn is None else _GRAPHICS
    version = max(_VERSION_OF[core], 3 if tables is not None else 1)
    return b"".join([bytes([core, flags]), out, *blobs]), version


def _encode_job(
    frames: Array, kept: Array, layers: list[Layer], transform: int, part: Part, encoders: list[Encoder]
) -> Job:
    def job() -> list[bytes]:
        chosen = kept[part.first : part.end]
        if len(chosen) == chosen[-1] - chosen[0] + 1:
            block = frames[chosen[0] : chosen[-1] + 1, part.top : part.bottom]
        else:
            block = frames[chosen, part.top : part.bottom]
        components = components_of(block, transform)
        return [
            encode(np.ascontiguousarray(layer.extract(components[layer.component])), layer.max_value, part)
            for layer, encode in zip(layers, encoders, strict=True)
            if layer.max_value
        ]

    return job


def _encoder(effort: str, by_symbols: bool | None) -> Encoder:
    """Return what makes a part of planes: the graphics core if it is told about literals, else that of the effort."""

    def encode(planes: Array, max_value: int, part: Part) -> bytes:
        if by_symbols is not None:
            return graphics.encode_planes(planes, max_value, part.references, part.shifts, by_symbols)
        if effort == "dense":
            coded: bytes = _backward().encode_planes(planes, max_value, part.references)
            return coded
        settings = FAST if effort == "fast" else BALANCED
        return forward.encode_planes(planes, max_value, part.references, part.shifts, settings)

    return encode


def _choose_colours(frames: Array, kept: Array, effort: str) -> tuple[int, Array | None]:
    """Return the best colour transform, and for `dense` the palette that is better still, or None."""
    if frames.ndim == 3 or frames.shape[3] != 3 or frames.dtype.itemsize > 2:
        return NO_TRANSFORM, None
    if effort == "dense":
        return choose_colours(frames, kept)
    return choose_transform(frames, kept), None


def _decode(
    payload: memoryview, shape: tuple[int, ...], dtype: np.dtype[Any], wanted: list[int], version: int
) -> tuple[Array, Iterator[int]]:
    """Return what `decode_stepwise` does."""
    reader = ByteReader(payload)
    core = reader.byte()
    if core == _STORED:
        if reader.left != dtype.itemsize * int(np.prod(shape, dtype=np.int64)):
            raise CorruptStreamError("stored samples do not fill the frames")
        samples = np.frombuffer(reader.take(reader.left), dtype.newbyteorder("<"))
        return samples.reshape(shape)[wanted].astype(dtype), iter(range(len(wanted)))
    flags = reader.byte()
    if _VERSION_OF.get(core, version + 1) > version or flags > 7:
        raise CorruptStreamError(f"unknown core {core} or flags {flags}")
    n, rows, columns = shape[:3]
    if n > len(payload) or columns > MAX_COLUMNS:
        raise CorruptStreamError("more frames than bytes, or frames too wide")
    twins = list(range(n))
    if flags & _DUPLICATES:
        for i in range(n):
            twins[i] = i - reader.varint(i)
        if any(twins[j] != j for j in twins):
            raise CorruptStreamError("duplicate of a duplicate")
    kept = [i for i in range(n) if twins[i] == i]
    position = {i: k for k, i in enumerate(kept)}
    references = default_references(len(kept))
    shifts = None
    if flags & _EXPLICIT:
        references = []
        for k in range(len(kept)):
            back = reader.varint(k)
            references.append(k - back if back else -1)
    if flags & _SHIFTED:
        shifts = [(reader.signed(1 << 15), reader.signed(1 << 15)) for _ in kept]
    transform = reader.byte()
    n_components = shape[3] if len(shape) == 4 else 1
    fitting = n_components == 3 if transform != _OWN_TABLES else len(shape) == 3
    if transform > _LAST_TRANSFORM[version] or (transform and not fitting):
        raise CorruptStreamError(f"unknown transform {transform}")
    palette = tables = None
    samples_dtype = dtype
    if transform == _PALETTE:
        if dtype != np.uint8:
            raise CorruptStreamError("palette for samples that are not bytes")
        palette = read_palette(reader)
        shape, dtype, n_components, transform = shape[:3], np.dtype(np.uint16), 1, NO_TRANSFORM
    elif transform == _OWN_TABLES:
        if dtype.itemsize > 2:
            raise CorruptStreamError("tables for samples of more than 16 bits")
        tables = read_tables(reader, len(kept), rows * columns)
        dtype, transform = np.dtype(np.uint16), NO_TRANSFORM
    if core == _GRAPHICS and n_components > 1:
        # All layers are decoded at once, and what this core learns is large.
        raise CorruptStreamError("graphics core for more than one component")
    layers = read_layers(reader, n_components, len(kept) * rows * columns)
    coded_layers = [layer for layer in layers if layer.max_value]

    parts = []
    stripes = _stripes(rows, columns)
    for first, end in _sections(references, rows * columns * n_components):
        for top, bottom in stripes:
            part = Part(references, shifts, first, end, top, bottom, columns)
            parts.append((part, [reader.varint(1 << 40) for _ in coded_layers]))
    out = np.empty((len(wanted), *shape[1:]), dtype)
    jobs = []
    for part, lengths in parts:
        blobs = [reader.take(length) for length in lengths]
        targets = [
            (t, position[twins[i]] - part.first)
            for t, i in enumerate(wanted)
            if part.first <= position[twins[i]] < part.end
        ]
        if targets:
            jobs.append(_decode_job(blobs, layers, transform, part, core, targets, out))
    if reader.left:
        raise CorruptStreamError("bytes after the last part")
    whole = _whole(_run(jobs, out.size), len(stripes))
    if tables is not None:
        valued = np.empty(out.shape, samples_dtype)
        numbers = [tables.of_frame[position[twins[i]]] for i in wanted]
        return valued, _valued(out, whole, tables, numbers, valued)
    if palette is None:
        return out, whole
    coloured = np.empty((*out.shape, 3), np.uint8)
    return coloured, _coloured(out, whole, palette, coloured)


def _whole(places: Iterable[int], n_stripes: int) -> Iterator[int]:
    """Yield each place when it has come up for its last stripe."""
    seen: Counter[int] = Counter()
    for place in places:
        seen[place] += 1
        if seen[place] == n_stripes:
            yield place


def _coloured(ranks: Array, whole: Iterable[int], palette: Array, out: Array) -> Iterator[int]:
    """Write the colours of frames of ranks that are whole, and yield their places."""
    for place in whole:
        out[place] = from_ranks(ranks[place], palette)
        yield place


def _valued(
    ranks: Array, whole: Iterable[int], tables: Tables, numbers: list[int], out: Array
) -> Iterator[int]:
    """Write the values of frames of ranks that are whole, by the tables of those numbers, and yield their places."""
    for place in whole:
        from_own_ranks(ranks[place], tables, numbers[place], out[place])
        yield place


def _decode_job(
    blobs: list[memoryview],
    layers: list[Layer],
    transform: int,
    part: Part,
    core: int,
    targets: list[tuple[int, int]],
    out: Array,
) -> Job:
    """Return what writes the frames of `targets`, (place in `out`, number in the part), and yields their places."""

    def job() -> Iterator[int]:
        places: dict[int, list[int]] = {}
        for t, k in targets:
            places.setdefault(k, []).append(t)
        coded = [layer for layer in layers if layer.max_value]
        streams = [
            _decode_planes(blob, layer.max_value, part, core, sorted(places))
            for blob, layer in zip(blobs, coded, strict=True)
        ]
        # All layers of a frame are decoded before the next frame, so only a few frames are held.
        steps: Iterable[Any] = zip(*streams, strict=True) if streams else [[(k, None)] for k in places]
        blank = np.zeros(part.shape[1:], np.uint16)
        for step in steps:
            k = step[0][0]
            if k in places:
                planes = iter(step)
                values = [next(planes)[1] if layer.max_value else blank for layer in layers]
                first, *others = places[k]
                _place(values, layers, transform, out[first : first + 1, part.top : part.bottom])
                for t in others:
                    out[t, part.top : part.bottom] = out[first, part.top : part.bottom]
                yield from places[k]

    return job


def _place(values: list[Array], layers: list[Layer], transform: int, target: Array) -> None:
    """Write a frame, `target` (1, rows, columns...), from the values of its layers."""
    # One layer of samples of up to 16 bits, as nearly always, goes straight to its place.
    if len(layers) == 1 and target.ndim == 3 and target.dtype.itemsize <= 2 and not layers[0].shift:
        layers[0].write(values[0], target[0].view(f"u{target.dtype.itemsize}"))
        return
    components: list[Any] = [None] * (1 + max(layer.component for layer in layers))
    for layer, value in zip(layers, values, strict=True):
        added = layer.restore(value)
        before = components[layer.component]
        components[layer.component] = added if before is None else before + added
    for c, offset in {layer.component: layer.offset for layer in layers}.items():
        components[c] = components[c].astype(np.int64) + offset
    frames_from([c[np.newaxis] for c in components], transform, target)


def _decode_planes(
    blob: memoryview, max_value: int, part: Part, core: int, select: list[int]
) -> Iterable[tuple[int, Array]]:
    if core == _GRAPHICS:
        return graphics.decode_planes(
            bytes(blob), part.shape, max_value, part.references, part.shifts, select
        )
    if core != _FORWARD:
        revision = 1 if core == _BACKWARD else 2
        planes = _backward().decode_planes(
            bytes(blob), part.shape, max_value, part.references, upto=select[-1] + 1, revision=revision
        )
        if planes.max() > max_value:
            raise CorruptStreamError("sample above its limit")
        return [(k, planes[k]) for k in select]
    return forward.decode_planes(blob, *part.shape, max_value, part.references, part.shifts, select)
