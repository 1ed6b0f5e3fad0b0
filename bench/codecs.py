"""Size and speed of the codecs on real series, as ratios to JPEG-LS (CharLS) in the same run.

    python -m bench.codecs [--corpus DIR] [--series NAME,...] [--codecs NAME,...] [--samples N] [--repeats N]
                           [--json FILE] [--plot FILE] [--results FILE]

Every stream is decoded and compared sample by sample. Times are CPU seconds of this process; the codecs take
turns, and the median over the repeats counts. Sizes are whole streams, headers and tables included. `--results`
reports what an earlier run wrote with `--json`.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests import corpus

from bench import codecs_report
from bench.codecs_report import Results, Row
from bench.codecs_video import Ffv1, X265Lossless
from dcmpress.codecs.base import Codec
from dcmpress.codecs.interframe import codec as interframe_codec
from dcmpress.codecs.registry import get_codec

SERIES: dict[str, tuple[str, int | None, tuple[int, int] | None]] = {
    "ct-thin": ("CT-LIDC0314-thin", None, None),
    "ct-thick": ("CT-LungDxA0002", None, None),
    "mr-3d": ("MR-GE-T1-3D", 64, None),
    "mr-enhanced": ("MR-enhanced-MF", None, None),
    "fmri": ("MR-GE-fMRI", None, None),
    "mr-cine": ("MR-heart-cine-MF", None, None),
    "pet": ("PT-QINHN0024", 96, (128, 128)),
    "us-cine": ("US-EPIQ-cine", None, None),
    "xa-run": ("XA-catheter", None, None),
    "cr-2140x1760": ("CR-DX-MG", None, (2140, 1760)),
    "mg-3062x2394": ("CR-DX-MG", None, (3062, 2394)),
    "dx-505x2021": ("CR-DX-MG", None, (505, 2021)),
    "xa-1024": ("XA-WG04", None, None),
    "rf-1024": ("RF-single", None, None),
}
"""Name -> group of the corpus, most frames, size of the frames if the group holds several."""

VIDEO: dict[str, type[Codec]] = {"ffv1": Ffv1, "x265": X265Lossless}
"""Peers that are no codecs of this project's registry."""

CODECS: dict[str, tuple[str, dict[str, Any], int]] = {
    "fast": ("interframe", {"effort": "fast"}, 0),
    "balanced": ("interframe", {"effort": "balanced"}, 0),
    "dense": ("interframe", {"effort": "dense"}, 0),
    "jpeg-2000": ("jpeg-2000", {}, 0),
    "htj2k": ("htj2k", {}, 0),
    "jpeg-xl 1": ("jpeg-xl", {"effort": 1}, 0),
    "jpeg-xl 3": ("jpeg-xl", {"effort": 3}, 0),
    "jpeg-xl 7": ("jpeg-xl", {"effort": 7}, 0),
    "jpeg-xl 9": ("jpeg-xl", {"effort": 9}, 2_000_000),
    "zstd": ("zstd", {"level": 19}, 4_000_000),
    "ffv1": ("ffv1", {}, 0),
    "x265": ("x265", {}, 0),
    "huffman": ("huffman", {}, 0),
    "fluoroscopy": ("fluoroscopy", {}, 0),
    "spiht": ("spiht", {}, 0),
}
"""Name -> codec id, parameters, and the samples to which a slow peer is held (0: all); its ratios are then to
JPEG-LS on the same frames."""

Array = NDArray[Any]


def load(name: str, folder: Path) -> Array:
    """Return a series as frames."""
    group, limit, size = SERIES[name]
    return corpus.series(group, limit, folder, size)


def codec_of(codec_id: str, parameters: dict[str, Any]) -> Codec:
    """Return a codec of the registry, or a video peer."""
    if codec_id in VIDEO:
        return VIDEO[codec_id](**parameters)
    return get_codec(codec_id, **parameters)


def _cpu(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    result = function()
    return result, time.process_time() - start


def measure(frames: Array, names: list[str], repeats: int) -> dict[str, Row]:
    """Return for each codec that takes such frames: size, enc, dec (ratios to JPEG-LS), bits per sample."""
    peer = get_codec("jpeg-ls")
    results: dict[str, Row] = {}
    for name in names:
        codec_id, parameters, most = CODECS[name]
        codec = codec_of(codec_id, parameters)
        part = frames[: max(1, most // frames[0].size)] if most else frames
        try:
            codec.encode(part[:1])
        except ValueError as error:
            print(f"    {name:11} {error}", file=sys.stderr)
            continue
        own, other, sizes = _race(codec, peer, part, 1 if most else repeats)
        results[name] = {
            "size": sizes[0] / sizes[1],
            "enc": other[0] / own[0],
            "dec": other[1] / own[1],
            "bits": 8 * sizes[0] / part.size,
            "ratio": part.nbytes / sizes[0],
            "peer": part.nbytes / sizes[1],
        }
    return results


def _race(
    codec: Codec, peer: Codec, frames: Array, repeats: int
) -> tuple[tuple[float, float], tuple[float, float], tuple[int, int]]:
    """Encode and decode with both in turn; return (encode, decode) seconds of each, and the sizes."""
    times: dict[str, list[float]] = {"ce": [], "cd": [], "pe": [], "pd": []}
    codec.decode(codec.encode(frames[:2]))  # kernels compiled
    sizes = (0, 0)
    for _ in range(repeats):
        data, seconds = _cpu(lambda: codec.encode(frames))
        times["ce"].append(seconds)
        reference, seconds = _cpu(lambda: peer.encode(frames))
        times["pe"].append(seconds)
        again, seconds = _cpu(partial(codec.decode, data))
        times["cd"].append(seconds)
        _, seconds = _cpu(partial(peer.decode, reference))
        times["pd"].append(seconds)
        if again.dtype != frames.dtype or not np.array_equal(again, frames):
            raise SystemExit(f"{codec}: decoded frames differ")
        sizes = (len(data), len(reference))
    median = {key: statistics.median(values) for key, values in times.items()}
    return (median["ce"], median["cd"]), (median["pe"], median["pd"]), sizes


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m bench.codecs", description=__doc__)
    parser.add_argument("--corpus", type=Path, default=corpus.FOLDER)
    parser.add_argument("--series", default=",".join(SERIES))
    parser.add_argument("--codecs", default=",".join(CODECS))
    parser.add_argument("--samples", type=int, help="at most so many of each series, at least a frame")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="size against speed, as PNG or SVG")
    parser.add_argument("--results", type=Path, help="measure nothing: report this file of --json")
    options = parser.parse_args(arguments)
    names = options.codecs.split(",")
    results: Results
    if options.results:
        results = json.loads(options.results.read_text())
    else:
        results = _measure_all(options.series.split(","), names, options)
    print("Size / JPEG-LS (encoding speed x JPEG-LS / decoding speed x JPEG-LS), one thread\n")
    print(codecs_report.table(results, names))
    print("\nSamples as stored / stream, median over the series\n")
    print(codecs_report.ratios(results, names))
    if options.plot:
        codecs_report.plot(results, names, options.plot)


def _measure_all(series: list[str], names: list[str], options: argparse.Namespace) -> Results:
    interframe_codec.MAX_THREADS = 1
    results: Results = {}
    for name in series:
        frames = load(name, options.corpus)
        if options.samples:
            frames = frames[: max(1, options.samples // frames[0].size)]
        print(name, frames.shape, frames.dtype, file=sys.stderr)
        results[name] = measure(frames, names, options.repeats)
        for codec, row in results[name].items():
            print(f"    {codec:11} {row['size']:.3f} {row['enc']:.2f} {row['dec']:.2f}", file=sys.stderr)
        if options.json:
            options.json.write_text(json.dumps(results, indent=1))
    return results


if __name__ == "__main__":
    main()
