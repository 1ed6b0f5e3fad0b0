"""JPEG images as the node keeps them, beside JPEG XL: size over that received, and CPU time.

    python -m bench.jpeg [--corpus DIR] [--images N]

The JPEG files of the corpus (baseline and extended), and native series of 8 bits compressed by libjpeg-turbo first.
Every image is put together again and compared. Times are CPU seconds of this process, for megabytes as received; those
of JPEG XL are in brackets, a dash where it does not take the images.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from tests import corpus, corpus_files

from bench.codecs import load
from dcmpress.codecs.jpeg_dct.stream import CoefficientWriter, restore
from dcmpress.codecs.reconstruct import TakenJpeg, take_jpeg_apart
from dcmpress.codecs.warm import warm_restorable
from dcmpress.storage.encapsulated import find_encapsulated

SYNTAXES = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
MADE = {"us-cine": 90, "mr-cine": 90, "xa-run": 90, "ct-thick": 85}
"""Series of `bench.codecs` -> libjpeg's quality."""


def received(folder: Path, most: int) -> Iterator[tuple[str, list[bytes]]]:
    """Yield (name, images) of the corpus's files."""
    for path in sorted(folder.rglob("*")):
        if path not in corpus_files.part10_files():
            continue
        meta, data = corpus_files.data_set(path)
        if meta.transfer_syntax_uid in SYNTAXES:
            found = find_encapsulated(data, meta.transfer_syntax_uid)
            if found is not None:
                pieces = found.images[:most]
                yield path.name, [b"".join(data[start:stop] for start, stop in image) for image in pieces]


def made(folder: Path, most: int) -> Iterator[tuple[str, list[bytes]]]:
    """Yield (name, images) of native series, scaled to 8 bits and compressed."""
    for name, quality in MADE.items():
        frames = load(name, folder)[:most].astype(np.float64)
        low, high = np.percentile(frames, [0.1, 99.9])
        pixels = np.clip((frames - low) * 255 / (high - low), 0, 255).astype(np.uint8)
        yield (
            f"{name}, quality {quality}",
            [bytes(imagecodecs.jpeg8_encode(one, level=quality)) for one in pixels],
        )


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result and the CPU seconds it took."""
    start = time.process_time()
    return function(), time.process_time() - start


def keep(images: list[bytes]) -> tuple[list[TakenJpeg], bytes]:
    """Return images taken apart, and the stream of their coefficients."""
    writer = CoefficientWriter()
    taken = []
    for data in images:
        one = take_jpeg_apart(data)
        if one is None or one.jpeg is None:
            raise SystemExit("an image that is not taken")
        one.add_to(writer)
        taken.append(one)
    return taken, writer.finish()


def measure(name: str, images: list[bytes]) -> str:
    """Return a row of the table."""
    size = sum(map(len, images))
    (taken, stream), keeping = timed(partial(keep, images))
    recipes, sizes = [one.image.recipe for one in taken], [one.image.size for one in taken]
    back = partial(restore, memoryview(stream), recipes, sizes, range(len(images)), 1 << 32)
    again, giving = timed(back)
    if again != images:
        raise SystemExit(f"{name} does not come back")
    # Recipes stand in a directory that Zstandard packs; those of a series are much the same.
    kept = len(stream) + len(recipes[0])
    peer, peer_keep, peer_give = "-", "-", "-"
    try:
        others, peer_keeping = timed(
            lambda: [imagecodecs.jpegxl_encode_jpeg(data, numthreads=1) for data in images]
        )
        _, peer_giving = timed(
            lambda: [imagecodecs.jpegxl_decode_jpeg(data, numthreads=1) for data in others]
        )
        peer = f"{sum(map(len, others)) / size:.3f}"
        peer_keep, peer_give = f"{size / peer_keeping / 1e6:.1f}", f"{size / peer_giving / 1e6:.1f}"
    except RuntimeError:
        pass
    return (
        f"| {name} | {len(images)} | {size} | {kept / size:.3f} | {peer} "
        f"| {size / keeping / 1e6:.1f} ({peer_keep}) | {size / giving / 1e6:.1f} ({peer_give}) |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=corpus.FOLDER)
    parser.add_argument("--images", type=int, default=1000, help="at most so many of each file or series")
    options = parser.parse_args()
    warm_restorable()
    print(
        "| images of | images | bytes received | kept | JPEG XL | keep, MB/s | give back, MB/s |\n"
        + "|---" * 7
        + "|"
    )
    for source in (received, made):
        for name, images in source(options.corpus, options.images):
            print(measure(name, images), flush=True)


if __name__ == "__main__":
    main()
