"""All lossless codecs on one series of each kind: ratio, and speed as a ratio to JPEG-LS (CharLS)."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests import corpus

from bench.literature_report import Table
from dcmpress.codecs.registry import get_codec

GROUPS = {
    "CT thin": "CT-LIDC0314-thin",
    "CT thick": "CT-LungDxA0002",
    "MR 3-D": "MR-GE-T1-3D",
    "MR cine": "MR-heart-cine-MF",
    "PET": "PT-QINHN0024",
    "NM": "NM",
    "US cine": "US-EPIQ-cine",
    "US colour": "US-RGB-singles",
    "XA run": "XA-catheter",
    "XA single": "XA-WG04",
    "RF": "RF-single",
    "CR/DX/MG": "CR-DX-MG",
    "VL": "VL",
}
LITERATURE: dict[str, tuple[str, dict[str, Any]]] = {
    "huffman": ("huffman", {}),
    "fluoroscopy": ("fluoroscopy", {}),
    "spiht": ("spiht", {}),
    "spiht deflate": ("spiht", {"entropy": "deflate"}),
}
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "zstd": ("zstd", {}),
    "jpeg-ls": ("jpeg-ls", {}),
    "jpeg-2000": ("jpeg-2000", {}),
    "htj2k": ("htj2k", {}),
    "jpeg-xl": ("jpeg-xl", {}),
}
CODECS = LITERATURE | PEERS
MOST_SAMPLES = 4 << 20
REPEATS = 3


def series(folder: Path) -> dict[str, NDArray[Any]]:
    """Return up to `MOST_SAMPLES` samples of each kind, from the start of the largest series of its group."""
    found = {}
    for name, group in GROUPS.items():
        frames = corpus.series(group, None, folder)
        found[name] = np.ascontiguousarray(frames[: max(1, MOST_SAMPLES // frames[0].size)])
    return found


def _seconds(function: Callable[[], Any]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def _race(frames: NDArray[Any]) -> tuple[dict[str, int], dict[str, list[float]]]:
    """Return sizes and median CPU seconds (encode, decode) of all codecs, taken in turns."""
    codecs = {name: get_codec(codec_id, **parameters) for name, (codec_id, parameters) in CODECS.items()}
    streams = {}
    for name, codec in codecs.items():
        streams[name] = codec.encode(frames)
        if not np.array_equal(codec.decode(streams[name]), frames):
            raise SystemExit(f"{name}: decoded frames differ")
    times: dict[str, list[list[float]]] = {name: [] for name in codecs}
    for _ in range(REPEATS):
        for name, codec in codecs.items():
            encode = _seconds(partial(codec.encode, frames)) if name != "jpeg-xl" else float("nan")
            times[name].append([encode, _seconds(partial(codec.decode, streams[name]))])
    medians = {name: [statistics.median(t) for t in zip(*rows, strict=True)] for name, rows in times.items()}
    return {name: len(data) for name, data in streams.items()}, medians


def tables(folder: Path) -> list[Table]:
    """Return ratios and speeds by modality."""
    ratios = Table(
        "modality_ratios",
        "Lossless ratio by modality",
        "Stored bytes / compressed bytes, whole streams. The fluoroscopy codec predicts between frames; all "
        "others take each frame for itself. JPEG XL at effort 7, Zstandard at level 9.",
        ["series", "shape", "dtype", *CODECS],
    )
    encode = Table(
        "modality_encode_speed",
        "Encoding speed, as a ratio to CharLS",
        f"CPU time of one thread, codecs in turns in the same run, median of {REPEATS}; JPEG XL is not timed.",
        ["series", *LITERATURE, "jpeg-2000", "htj2k", "zstd", "CharLS MB/s"],
    )
    decode = Table(
        "modality_decode_speed",
        "Decoding speed, as a ratio to CharLS",
        "As above.",
        ["series", *LITERATURE, "jpeg-2000", "htj2k", "zstd", "CharLS MB/s"],
    )
    for name, frames in series(folder).items():
        sizes, times = _race(frames)
        shape = " x ".join(map(str, frames.shape))
        ratios.rows.append([name, shape, str(frames.dtype), *(frames.nbytes / sizes[c] for c in CODECS)])
        for table, k in ((encode, 0), (decode, 1)):
            peer = times["jpeg-ls"][k]
            compared = [*LITERATURE, "jpeg-2000", "htj2k", "zstd"]
            table.rows.append([name, *(peer / times[c][k] for c in compared), frames.nbytes / peer / 1e6])
    for table in (ratios, encode, decode):
        first = 3 if table is ratios else 1
        columns = list(zip(*(row[first:] for row in table.rows), strict=True))
        blank = ["", ""] if table is ratios else []
        table.rows.append(["median", *blank, *(statistics.median(column) for column in columns)])
    return [ratios, encode, decode]
