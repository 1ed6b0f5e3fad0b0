"""The forward-adaptive core: the encoder fits predictors and sends them, the decoder is simple and fast.

A sequence of planes is cut into batches of about BATCH_SAMPLES samples. A batch has one set of coefficient
classes for its frames without a reference and one for those with, one set of context thresholds and weights,
and one set of entropy tables. A frame has its own labels and four streams, found through an index: a frame
is decoded by decoding only the frames it refers to.

    varint    length of each batch's header (the geometry tells how many there are)
    varint    length of each frame
    ...       batch headers, then frames
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs import ans
from dcmpress.codecs.bits import ByteReader, as_bytes, put_varint
from dcmpress.codecs.errors import CorruptStreamError
from dcmpress.codecs.interframe import context, geometry, kernels, predict
from dcmpress.codecs.interframe.analysis import Settings, encode_batch
from dcmpress.codecs.interframe.batch import Batch, batch_starts, read_header
from dcmpress.codecs.interframe.records import BAD_LABEL, NO_RUNS, read_frame
from dcmpress.codecs.interframe.window import Window

Array = NDArray[Any]


def encode_planes(
    planes: Array,
    max_value: int,
    references: Sequence[int],
    shifts: Sequence[tuple[int, int]] | None,
    settings: Settings,
) -> bytes:
    """Encode planes, uint16 (n, rows, columns) with values up to `max_value`, into bytes."""
    n, rows, columns = planes.shape
    frames = Window(planes, references, shifts)
    starts = batch_starts(n, rows * columns)
    headers: list[bytes] = []
    records: list[bytes] = []
    for first, end in pairwise(starts):
        header, batch_records = encode_batch(frames, range(first, end), max_value, settings)
        headers.append(header)
        records.extend(batch_records)
    out = bytearray()
    for header in headers:
        put_varint(out, len(header))
    for record in records:
        put_varint(out, len(record))
    return bytes(out) + b"".join(headers) + b"".join(records)


def decode_planes(
    data: memoryview | bytes,
    n: int,
    rows: int,
    columns: int,
    max_value: int,
    references: Sequence[int],
    shifts: Sequence[tuple[int, int]] | None,
    select: Sequence[int],
) -> Iterator[tuple[int, Array]]:
    """Decode the planes in `select`, and those they refer to; yield (number, plane) in order.

    A plane, uint16 (rows, columns), is valid until the next one is asked for: its memory is used again.

    Raises
    ------
    CorruptStreamError
        If `data` was not written by `encode_planes` for this geometry.
    """
    reader = ByteReader(data)
    starts = batch_starts(n, rows * columns)
    header_lengths = [reader.varint(1 << 32) for _ in starts[1:]]
    record_lengths = [reader.varint(1 << 32) for _ in range(n)]
    headers = [reader.take(length) for length in header_lengths]
    records = [reader.take(length) for length in record_lengths]

    needed: set[int] = set()
    for i in select:
        while i >= 0 and i not in needed:
            needed.add(i)
            i = references[i]
    wanted = [r if i in needed else -1 for i, r in enumerate(references)]
    decoded: dict[int, Array] = {}
    frames = Window(np.empty((0, rows, columns), np.uint16), wanted, shifts)
    frames.planes = decoded  # type: ignore[assignment]
    last_use: dict[int, int] = {}
    for i in sorted(needed):
        for j in _chain(wanted, i):
            last_use[j] = i
    spare: list[Array] = []
    for b, (first, end) in enumerate(pairwise(starts)):
        members = [i for i in range(first, end) if i in needed]
        if not members:
            continue
        batch = read_header(headers[b], max_value)
        table = np.empty(ans.N_CONTEXTS * ans.N_STATES, np.uint32)
        ans.build_decoder(batch.counts, table)
        for i in members:
            decoded[i] = spare.pop() if spare else np.empty((rows, columns), np.uint16)
            _decode_frame(frames, i, batch, table, records[i], max_value)
            frames.drop_errors(i)
            frames.turn(i)
            yield i, decoded[i]
            for j in (i, *_chain(wanted, i)):
                if last_use.get(j, -1) <= i and j in decoded:
                    spare.append(decoded.pop(j))


def _chain(references: Sequence[int], i: int) -> list[int]:
    """Return the frames that the decoder of frame `i` may look at."""
    chain: list[int] = []
    while references[i] >= 0 and len(chain) <= predict.MAX_EXTRA:
        i = references[i]
        chain.append(i)
    return chain


def _decode_frame(
    frames: Window, i: int, batch: Batch, table: Array, record: memoryview, max_value: int
) -> None:
    rows, columns = frames.rows, frames.columns
    kind = int(frames.references[i] >= 0)
    tile = batch.tile
    reader = ByteReader(record)
    side = as_bytes(reader.take(reader.varint(len(record))))
    streams = as_bytes(reader.take(reader.left))
    labels = np.empty((-(-rows // tile), -(-columns // tile)), np.int64)
    runs = np.empty(rows * -(-columns // kernels.BLOCK), np.int64)
    starts = np.empty(ans.N_STREAMS + 1, np.int64)
    n_runs = read_frame(
        side, len(streams), labels, runs, starts,
        len(batch.classes[kind]), predict.COPY if kind else predict.MEDIAN, predict.NORTH,
    )  # fmt: skip
    if n_runs < NO_RUNS:
        raise CorruptStreamError(
            "label without coefficients" if n_runs == BAD_LABEL else "frame record does not fit its frame"
        )

    buffer = np.empty(len(streams) + ans.slack_bytes(columns), np.uint8)
    buffer[: len(streams)] = streams
    buffer[len(streams) :] = 0
    reference, extra = frames.planes_behind(i, batch.n_extra if kind else 0)
    reference_errors = frames.errors_behind(i)
    current = frames.current
    exact = kernels.decode_frame(
        current, frames.new_errors(i), rows, columns, reference, reference_errors,
        batch.n_extra if kind else 0, extra, tile, labels, batch.classes[kind], batch.shift,
        batch.wide[kind], context.error_shift(max_value), batch.weights[kind],
        batch.level, batch.thresholds, table,
        buffer, starts, runs[: max(n_runs, 0)], n_runs != NO_RUNS,
    )  # fmt: skip
    if not geometry.unpad(current, frames.planes[i], max_value) or not exact:
        raise CorruptStreamError("frame does not decode: the stream is damaged")
