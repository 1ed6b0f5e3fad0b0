"""System 2: Tables 5 to 10 of the Huffman paper, on whole files."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tests import corpus

from bench.literature_report import Table
from dcmpress.codecs.huffman import Huffman
from dcmpress.codecs.measures import compression_ratio, space_saving
from dcmpress.codecs.registry import get_codec

NAMED = {"CT-MONO2-16-ankle": 2.9933, "CT-MONO2-16-brain": 1.4596, "CT-MONO2-16-chest": 1.0024}
"""The files that the paper names, and the ratio of an optimal byte code without its table."""
REPEATS = 5


def cpu_median(function: Callable[[], Any], repeats: int = REPEATS) -> float:
    """Return the median CPU time of `repeats` calls after one more, in milliseconds."""
    function()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return 1000 * statistics.median(times)


def _files(folder: Path) -> list[Path]:
    """Return the Barre files and one file of each other group that holds an image."""
    chosen: dict[str, Path] = {}
    for entry in corpus.entries(None, folder):
        if entry.group == "Barre-singles":
            chosen[entry.path.name] = entry.path
        elif not entry.group.startswith(("TS-", "SEG")):
            chosen.setdefault(entry.group, entry.path)
    return list(chosen.values())


def tables(folder: Path) -> list[Table]:
    """Return the table of whole files."""
    table = Table(
        "huffman_files",
        "Tables 5 to 10: whole files",
        "Saving: space saving in per cent. Times are CPU milliseconds, median of "
        f"{REPEATS}. JPEG 2000: the pixel data lossless (OpenJPEG, one thread), the rest of the file "
        "as it is; it is left out where the file's pixels are compressed already or not decodable.",
        [
            "file",
            "bytes",
            "symbols",
            "compressed",
            "ratio",
            "optimal code alone",
            "saving",
            "enc ms",
            "dec ms",
            "dec MB/s",
            "J2K ratio",
            "J2K enc ms",
            "J2K dec ms",
        ],
        formats={"ratio": ".4f", "optimal code alone": ".4f"},
    )
    codec = Huffman()
    for path in _files(folder):
        content = np.fromfile(path, np.uint8)
        values = content.reshape(1, 1, -1)
        data = codec.encode(values)
        if not np.array_equal(codec.decode(data), values):
            raise SystemExit(f"{path}: decoded bytes differ")
        enc = cpu_median(partial(codec.encode, values))
        dec = cpu_median(partial(codec.decode, data))
        stem = path.name.removesuffix(".dcm")
        table.rows.append(
            [
                stem if len(stem) < 30 else f"{path.relative_to(folder).parts[0]}: …{stem[-12:]}",
                content.size,
                int(np.count_nonzero(np.bincount(content))),
                len(data),
                compression_ratio(content.size, len(data)),
                NAMED.get(stem, float("nan")),
                100 * space_saving(content.size, len(data)),
                enc,
                dec,
                content.size / dec / 1000,
                *_jpeg_2000(path, content.size),
            ]
        )
    return [table]


def _jpeg_2000(path: Path, file_size: int) -> list[float]:
    """Return ratio of the file and times with lossless JPEG 2000, or three NaN."""
    missing = [float("nan")] * 3
    try:
        frames = corpus.frames_of(path)
    except Exception:  # whatever a decoder library says of a file that it does not take
        return missing
    codec = get_codec("jpeg-2000")
    if frames.nbytes > file_size or frames.dtype.name not in codec.dtypes or frames.nbytes > 40_000_000:
        return missing
    data = codec.encode(frames)
    if not np.array_equal(codec.decode(data), frames):
        raise SystemExit(f"{path}: JPEG 2000 gives other samples")
    enc = cpu_median(lambda: codec.encode(frames), 3)
    dec = cpu_median(lambda: codec.decode(data), 3)
    return [compression_ratio(file_size, file_size - frames.nbytes + len(data)), enc, dec]
