"""DICOM run-length images (PS3.5 annex G) taken apart and put together again.

An encoder may end a run or a literal wherever it likes, and most follow one of a few habits. The recipe names the
habit that explains a segment best, and lists the codes that it does not explain: any stream can be told so.

    recipe := segment * n
    segment := habit (1 byte), exceptions, bytes behind the last code: their number and they,
               codes between exceptions (uint32, little endian) * exceptions, codes * exceptions
"""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.bits import ByteReader, put_varint
from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.rle_image_kernels import decode_segment, encode_segment, find_exceptions

HABITS: tuple[tuple[bool, int, int], ...] = (
    (True, 3, 3),
    (True, 2, 2),
    (True, 2, 3),
    (False, 3, 3),
    (False, 2, 2),
    (False, 2, 3),
    (True, 3, 2),
    (False, 3, 2),
)
"""(codes end where a row ends, least run, least run that ends a literal). Their numbers are in streams."""

_HEADER = 64
_MOST_SEGMENTS = 15

Array = NDArray[Any]


def take_apart(data: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Array, list[bytes]] | None:
    """Return (frame, recipes to try); see `restorable`."""
    samples = shape[2] if len(shape) > 2 else 1
    n = samples * dtype.itemsize
    if len(data) < _HEADER or n > _MOST_SEGMENTS:
        return None
    header = np.frombuffer(data[:_HEADER], "<u4")
    borders = [*header[1 : n + 1].tolist(), len(data)]
    if header[0] != n or borders[0] != _HEADER or any(a > b for a, b in pairwise(borders)):
        return None
    planes = np.empty((n, shape[0] * shape[1]), np.uint8)
    recipe = bytearray()
    for plane, (begin, end) in zip(planes, pairwise(borders), strict=True):
        coded = np.frombuffer(data, np.uint8)[begin:end]
        used = int(decode_segment(coded, plane))
        if used < 0:
            return None
        told = _told(coded[:used], plane, shape[1])
        if told is None:
            return None
        recipe += told[0]
        put_varint(recipe, end - begin - used)
        recipe += data[begin + used : end] + told[1]
    return _frame(planes, shape, dtype), [bytes(recipe)]


def put_together(frame: Array, recipe: bytes) -> bytes:
    """Return the bytes of the image; see `restorable`."""
    planes = _planes(frame)
    if len(planes) > _MOST_SEGMENTS:
        raise CorruptStreamError("run length: too many segments")
    reader = ByteReader(recipe)
    header = np.zeros(_HEADER // 4, "<u4")
    header[0] = len(planes)
    parts = [b""]
    at = _HEADER
    for k, plane in enumerate(planes):
        habit = reader.byte()
        if habit >= len(HABITS):
            raise CorruptStreamError(f"run length: habit {habit}")
        n_exceptions = reader.varint()
        behind = bytes(reader.take(reader.varint()))
        gaps = np.frombuffer(reader.take(4 * n_exceptions), "<u4")
        codes = np.frombuffer(reader.take(n_exceptions), np.uint8)
        out = np.empty(2 * plane.size + n_exceptions, np.uint8)
        size = encode_segment(plane, frame.shape[1], *HABITS[habit], gaps, codes, out)
        if size < 0:
            raise CorruptStreamError("run length: exceptions lead out of the image")
        header[k + 1] = at
        parts += [out[:size].tobytes(), behind]
        at += int(size) + len(behind)
        if at >= 1 << 32:
            raise CorruptStreamError("run length: more than 4 GiB")
    if reader.left:
        raise CorruptStreamError("run length: a recipe for more segments")
    parts[0] = header.tobytes()
    return b"".join(parts)


def _told(coded: NDArray[np.uint8], plane: NDArray[np.uint8], columns: int) -> tuple[bytes, bytes] | None:
    """Return habit and exceptions of a segment, to stand before and after what is behind it; None if too many."""
    most = coded.size // 16
    gaps = np.empty(most, np.uint32)
    codes = np.empty(most, np.uint8)
    best: tuple[bytes, bytes] | None = None
    fewest = most + 1
    for number, habit in enumerate(HABITS):
        n = int(find_exceptions(coded, plane, columns, *habit, gaps, codes))
        if 0 <= n < fewest:
            fewest = n
            before = bytearray([number])
            put_varint(before, n)
            best = bytes(before), gaps[:n].astype("<u4").tobytes() + codes[:n].tobytes()
        if n == 0:
            break
    return best


def _frame(planes: NDArray[np.uint8], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """Return samples from byte planes: of each sample the most significant byte first (PS3.5 G.2)."""
    little = np.ascontiguousarray(
        planes.reshape(-1, dtype.itemsize, planes.shape[1])[:, ::-1].transpose(2, 0, 1)
    )
    return little.view(dtype.newbyteorder("<")).astype(dtype).reshape(shape)


def _planes(frame: Array) -> NDArray[np.uint8]:
    size = frame.dtype.itemsize
    little = np.ascontiguousarray(frame, frame.dtype.newbyteorder("<")).view(np.uint8)
    apart = little.reshape(frame.shape[0] * frame.shape[1], -1, size)[:, :, ::-1]
    return np.ascontiguousarray(apart.transpose(1, 2, 0)).reshape(-1, apart.shape[0])
