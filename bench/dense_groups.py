"""Size of `interframe` against JPEG-LS and JPEG XL 7 on every image of groups of the corpus: colour, screens too.

    python -m bench.dense_groups [--effort dense] [--corpus DIR] [--samples N] [GROUP ...]

Every stream is decoded and compared. Sizes are whole streams. `x` is CPU time relative to CharLS on the same frames,
one run, encoding and decoding.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tests import corpus

from dcmpress.codecs.interframe import codec as interframe_codec
from dcmpress.codecs.registry import get_codec
from dcmpress.codecs.warm import warm

GROUPS = ("US-PAL-echo", "US-RGB-singles", "US-execho", "VL", "Barre-singles", "NM")


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """Return the result and the CPU seconds it took."""
    start = time.process_time()
    result = function()
    return result, time.process_time() - start


def measure(path: Path, most: int, effort: str) -> str:
    """Return a row of the table."""
    frames = corpus.frames_of(path)
    frames = frames[: max(1, most // frames[0].size)]
    own, peer, other = (
        get_codec("interframe", effort=effort),
        get_codec("jpeg-ls"),
        get_codec("jpeg-xl", effort=7),
    )
    data, encoding = timed(partial(own.encode, frames))
    again, decoding = timed(partial(own.decode, data))
    if not np.array_equal(again, frames):
        raise SystemExit(f"{path}: decoded frames differ")
    reference, peer_encoding = timed(partial(peer.encode, frames))
    _, peer_decoding = timed(partial(peer.decode, reference))
    size = len(data)
    return (
        f"| {path.name} | {'x'.join(str(n) for n in frames.shape)} | {8 * size / frames.size:.3f} "
        f"| {size / len(reference):.3f} | {size / len(other.encode(frames)):.3f} | {size / frames.nbytes:.3f} "
        f"| {encoding / peer_encoding:.1f} | {decoding / peer_decoding:.1f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--effort", default="dense", choices=("fast", "balanced", "dense"))
    parser.add_argument("--corpus", type=Path, default=corpus.FOLDER)
    parser.add_argument("--samples", type=int, default=2_000_000, help="at most so many of each image")
    parser.add_argument("groups", nargs="*", default=GROUPS)
    options = parser.parse_args()
    interframe_codec.MAX_THREADS = 1
    warm(get_codec("interframe", effort=options.effort))
    print("| image | frames | bpp | /JPEG-LS | /JPEG XL 7 | /stored | enc x | dec x |\n" + "|---" * 8 + "|")
    for group in options.groups:
        for entry in corpus.entries(group, options.corpus):
            try:
                print(measure(entry.path, options.samples, options.effort), flush=True)
            except (AttributeError, ValueError) as error:
                print(f"    {entry.path.name}: {error}", file=sys.stderr)


if __name__ == "__main__":
    main()
