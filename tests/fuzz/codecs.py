"""Hostile streams for every codec: `NUMBA_BOUNDSCHECK=1 python -m tests.fuzz.codecs --minutes 60`.

Valid streams of many shapes and contents are damaged and given a valid checksum again, so that the damage
reaches the decoder's kernels. Nothing but CodecError may come out, and nothing may take long. What fails is
written to `tests/data/crashers`, from where `tests/codecs/test_crashers.py` tries it for ever after.
"""

import argparse
import random
import signal
import struct
import time
import traceback
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.base import Codec
from dcmpress.codecs.errors import CodecError
from dcmpress.codecs.reconstruct import Reconstruct
from dcmpress.codecs.reconstruct_directory import Piece
from dcmpress.codecs.registry import get_codec
from dcmpress.codecs.restorable import take_apart
from dcmpress.codecs.stream import HEADER_SIZE

CRASHERS = Path(__file__).resolve().parents[1] / "data" / "crashers"
CODECS: dict[str, tuple[str, dict[str, Any]]] = {
    "interframe-fast": ("interframe", {"effort": "fast"}),
    "interframe-balanced": ("interframe", {"effort": "balanced"}),
    "interframe-dense": ("interframe", {"effort": "dense"}),
    "huffman": ("huffman", {}),
    "fluoroscopy": ("fluoroscopy", {}),
    "spiht": ("spiht", {}),
    "wavelet-threshold": ("wavelet-threshold", {}),
    "rle": ("rle", {}),
    "zstd": ("zstd", {}),
    "store": ("store", {}),
    "reconstruct": ("reconstruct", {"inner": "store"}),
}
MAX_PIXELS = 1 << 18
TOO_LONG = 20
"""Seconds that one decode may take, on a machine under load, with bounds checks."""

_CHECKED = HEADER_SIZE - 4


class TooSlowError(Exception):
    """A decode did not end."""


def with_checksum(stream: bytes) -> bytes:
    """Return a stream whose checksum is right again, see `dcmpress.codecs.stream`."""
    if len(stream) < HEADER_SIZE:
        return stream
    crc = zlib.crc32(stream[HEADER_SIZE:], zlib.crc32(stream[:_CHECKED]))
    return stream[:_CHECKED] + struct.pack("<I", crc) + stream[HEADER_SIZE:]


def images(chooser: random.Random) -> NDArray[Any]:
    """Return small frames of some kind: noise, smooth, flat, sparse, repeated, drawn, in colour."""
    rng = np.random.default_rng(chooser.randrange(1 << 32))
    n, rows, columns = chooser.choice([1, 2, 3, 9]), chooser.randint(1, 70), chooser.randint(1, 70)
    dtype = np.dtype(chooser.choice(["uint8", "int8", "uint16", "int16"]))
    info = np.iinfo(dtype)
    y, x = np.mgrid[:rows, :columns]
    kind = chooser.randrange(7)
    if kind == 0:
        values = rng.integers(info.min, info.max, (n, rows, columns), endpoint=True)
    elif kind == 1:
        values = (40 + 30 * np.sin(x / 7) + 20 * np.cos(y / 5)) + rng.integers(0, 4, (n, rows, columns))
    elif kind == 2:
        values = np.full((n, rows, columns), chooser.randint(int(info.min), int(info.max)))
    elif kind == 3:
        values = rng.choice([0, 1, 17, 100, int(info.max)], (n, rows, columns))
    elif kind == 4:
        values = np.repeat(rng.integers(0, 90, (1, rows, columns)), n, axis=0)
    elif kind == 5:
        values = np.tile(rng.integers(0, 3, (8, 6)) * 40, (-(-rows // 8), -(-columns // 6)))[:rows, :columns]
        values = np.where(rng.random((n, rows, columns)) < 0.02, 77, values)
    else:
        values = np.where((x - columns / 2) ** 2 + (y - rows / 2) ** 2 < rows * columns / 6, 60, 0)
        values = values + rng.integers(0, 3, (n, rows, columns))
    frames = values.astype(dtype)
    return np.stack([frames, frames, frames[..., ::-1]], axis=-1) if chooser.random() < 0.15 else frames


def damaged(stream: bytes, other: bytes, chooser: random.Random) -> bytes:
    """Return a stream with some damage beyond its checksum; sometimes in its header too."""
    data = bytearray(stream)
    start = 5 if chooser.random() < 0.1 else HEADER_SIZE
    for _ in range(chooser.choice([1, 1, 1, 2, 4, 16])):
        if len(data) <= start:
            break
        at = chooser.randrange(start, len(data))
        kind = chooser.randrange(7)
        if kind == 0:
            data[at] ^= 1 << chooser.randrange(8)
        elif kind == 1:
            data[at] = chooser.choice([0, 1, 127, 128, 254, 255, chooser.randrange(256)])
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + chooser.randint(1, 9)]
        elif kind == 4:
            data[at:at] = bytes(chooser.randrange(256) for _ in range(chooser.randint(1, 9)))
        elif kind == 5:
            data[at : at + 4] = struct.pack("<I", chooser.choice([0, 1, 0x7FFFFFFF, 0xFFFFFFFF, len(data)]))
        else:
            length = chooser.randint(1, 64)
            begin = chooser.randrange(max(1, len(other) - length))
            data[at : at + length] = other[begin : begin + length]
    return with_checksum(bytes(data))


def tried(codec: Codec, stream: bytes, select: list[int] | None) -> str:
    """Decode a stream; return what came of it: "decoded", "refused", or the failure's traceback."""

    def too_slow(*_: object) -> None:
        raise TooSlowError(f"still decoding after {TOO_LONG} s")

    signal.signal(signal.SIGALRM, too_slow)
    signal.alarm(TOO_LONG)
    try:
        codec.decode(stream, select, max_pixels=MAX_PIXELS)
        return "decoded"
    except CodecError:
        return "refused"
    except IndexError as error:
        # `select` may name a frame that a damaged header no longer declares; a kernel never may.
        if select is not None and "frame" in str(error):
            return "refused"
        return traceback.format_exc()
    except Exception:
        return traceback.format_exc()
    finally:
        signal.alarm(0)


def encoded(codec: Codec, frames: NDArray[Any]) -> bytes:
    """Return a stream of frames; `reconstruct` gets them as JPEG if they have 8 bits, else as JPEG 2000."""
    if not isinstance(codec, Reconstruct):
        return codec.encode(frames)
    if frames.dtype == np.uint8 and frames.shape[3:] in ((), (3,)):
        jpegs = [bytes(imagecodecs.jpeg8_encode(one, level=85)) for one in frames]
        size = max(map(len, jpegs))
        rows = np.frombuffer(b"".join(one.ljust(size, b"\0") for one in jpegs), np.uint8)
        return codec.encode(rows.reshape(len(jpegs), 1, size))
    samples = np.ascontiguousarray(frames).view(f"u{frames.dtype.itemsize}")
    data = [bytes(imagecodecs.jpeg2k_encode(one, reversible=True, codecformat="j2k")) for one in samples]
    size = max(map(len, data))
    rows = np.frombuffer(b"".join(one.ljust(size, b"\0") for one in data), np.uint8).reshape(len(data), 1, -1)
    taken = [take_apart("jpeg-2000", one, samples.shape[1:], samples.dtype) for one in data]
    images = [image for image, _ in filter(None, taken)]
    if len(images) < len(data):
        return codec.encode(rows)
    pieces = [Piece(k * size, k, 0, image.size) for k, image in enumerate(images)]
    return codec.encode_images(rows, images, pieces, samples)


def main() -> None:
    """Fuzz."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--codecs", default=",".join(CODECS))
    arguments = parser.parse_args()
    names = arguments.codecs.split(",")
    codecs = {name: get_codec(CODECS[name][0], **CODECS[name][1]) for name in names}
    chooser = random.Random(arguments.seed)
    counts: Counter[tuple[str, str]] = Counter()
    end = time.monotonic() + 60 * arguments.minutes
    while time.monotonic() < end:
        name = chooser.choice(names)
        codec = codecs[name]
        frames = images(chooser)
        stream, other = encoded(codec, frames), encoded(codec, images(chooser))
        for _ in range(60):
            broken = damaged(stream, other, chooser)
            select = [chooser.randrange(len(frames))] if chooser.random() < 0.3 else None
            outcome = tried(codec, broken, select)
            if outcome in ("decoded", "refused"):
                counts[name, outcome] += 1
                continue
            counts[name, "FAILED"] += 1
            CRASHERS.mkdir(parents=True, exist_ok=True)
            path = CRASHERS / f"{name}.{zlib.crc32(broken):08x}"
            path.write_bytes(broken)
            print(f"{path}: {outcome}", flush=True)
    print(f"{sum(counts.values())} streams, seed {arguments.seed}")
    for (name, outcome), n in sorted(counts.items()):
        print(f"{name:20} {outcome:8} {n}")


if __name__ == "__main__":
    main()
