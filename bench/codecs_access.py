"""What random access costs, what threads gain, what memory is held, and how well `auto` chooses.

    python -m bench.codecs_access [intra|sections|threads|gil|memory|auto ...] [--corpus DIR] [--repeats N]

Sizes are exact. `intra` and `sections` time decoding by CPU seconds; `threads` needs wall-clock time, so the ways
take turns and the shortest of the repeats counts: run it on a quiet machine.
"""

import argparse
import hashlib
import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tests import corpus

from bench.codecs import SERIES, load
from dcmpress.codecs.auto import AutoCodec
from dcmpress.codecs.base import Codec
from dcmpress.codecs.interframe import codec as interframe_codec
from dcmpress.codecs.registry import get_codec

INTRA_SERIES = ("ct-thin", "mr-cine", "us-cine", "pet", "fmri")
SECTION_SERIES = (
    "ct-thin",
    "ct-thick",
    "mr-3d",
    "mr-cine",
    "us-cine",
    "xa-run",
    "pet",
    "fmri",
    "mr-enhanced",
)
INTRA_EVERY = (32, 16, 8, 4)
MOST_FRAMES = 64
TWICE = ("ct-thin", "ct-thick", "mr-cine", "us-cine")
PAIR_SAMPLES = 6_000_000
BIG = ("mg-3062x2394", "cr-2140x1760")
BUDGETS = {
    4.0: AutoCodec().candidates,
    18.0: ("interframe/dense", *AutoCodec().candidates),
}
"""Budget -> candidates within it."""
MORE_GROUPS = {"us-colour": "US-RGB-singles", "vl-colour": "VL", "nm": "NM"}
"""Groups of the corpus that `auto` meets beside the series of the benchmark."""
AUTO_SAMPLES = 6_000_000
"""More than `auto` tries, so that it can choose wrongly."""

Array = NDArray[Any]
Job = Callable[[], Any]


def chains(n_frames: int, every: int) -> list[int]:
    """Return the references of `n_frames` frames, each predicted from the one before, one in `every` from none."""
    return [-1 if i % every == 0 else i - 1 for i in range(n_frames)]


def _part(name: str, folder: Path, samples: int) -> Array:
    frames = load(name, folder)
    return np.ascontiguousarray(frames[: max(1, samples // frames[0].size)])


def _cpu(job: Job) -> float:
    start = time.process_time()
    job()
    return time.process_time() - start


def _wall(jobs: dict[str, Job], repeats: int) -> dict[str, float]:
    """Return the shortest wall-clock seconds of each job; the jobs take turns."""
    shortest = dict.fromkeys(jobs, float("inf"))
    for _ in range(repeats):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            shortest[name] = min(shortest[name], time.perf_counter() - start)
    return shortest


def intra(folder: Path, repeats: int) -> None:
    """Print the size with an intra frame every so many, and the time to decode one frame."""
    interframe_codec.MAX_THREADS = 1
    codec = get_codec("interframe")
    heads = [f"every {every}" for every in INTRA_EVERY]
    print("| series (frames) | one intra frame | " + " | ".join(heads) + " |")
    print("|---" * (len(heads) + 2) + "|")
    for name in INTRA_SERIES:
        frames = load(name, folder)[:MOST_FRAMES]
        whole, frames_decoded = _size_and_access(codec, frames, len(frames), repeats)
        cells = [f"{whole:,} bytes, {frames_decoded:.1f}"]
        for every in INTRA_EVERY:
            if every >= len(frames):
                cells.append("-")
                continue
            size, frames_decoded = _size_and_access(codec, frames, every, repeats)
            cells.append(f"{size / whole - 1:+.2%}, {frames_decoded:.1f}")
        print(f"| {name} ({len(frames)}) | " + " | ".join(cells) + " |", flush=True)


def _size_and_access(codec: Codec, frames: Array, every: int, repeats: int) -> tuple[int, float]:
    """Return the bytes of `frames`, and the time to decode one alone in units of its share of decoding all."""
    n = len(frames)
    data = codec.encode(frames, chains(n, every))
    if not np.array_equal(codec.decode(data), frames):
        raise SystemExit("decoded frames differ")

    def one_by_one() -> None:
        for i in range(n):
            codec.decode(data, [i])

    ratios = [_cpu(one_by_one) / _cpu(lambda: codec.decode(data)) for _ in range(repeats)]
    return len(data), statistics.median(ratios)


def sections(folder: Path, repeats: int) -> None:
    """Print what the sections of `dense` cost, and the time to decode the first frame of one and its last."""
    interframe_codec.MAX_THREADS = 1
    codec = get_codec("interframe", effort="dense")
    print("| series (frames) | frames a section | size | first | mean | last |\n" + "|---" * 6 + "|")
    kept = interframe_codec.SECTION_SAMPLES
    for name in SECTION_SERIES:
        frames = load(name, folder)[:MOST_FRAMES]
        n = len(frames)
        data = codec.encode(frames)
        length = min(n, max(interframe_codec.CHAIN, -(-kept // frames[0].size)))
        interframe_codec.SECTION_SAMPLES = 1 << 40
        whole = len(codec.encode(frames))
        interframe_codec.SECTION_SAMPLES = kept

        def share_of(i: int, data: bytes = data, n: int = n) -> float:
            alone = [_cpu(lambda: codec.decode(data, [i])) for _ in range(repeats)]
            return statistics.median(alone) / (_cpu(lambda: codec.decode(data)) / n)

        first, last = share_of(0), share_of(length - 1)
        print(
            f"| {name} ({n}) | {length} | {len(data) / whole - 1:+.2%} "
            f"| {first:.1f} | {(first + last) / 2:.1f} | {last:.1f} |",
            flush=True,
        )


def threads(folder: Path, repeats: int) -> None:
    """Print what two threads gain: each with a series to itself, and both within one big image."""
    print("| effort | work | encode x | decode x |\n|---|---|---|---|")
    blobs = [bytes(100_000_000)] * 2
    control = _gain_beside(lambda blob: hashlib.sha256(blob).digest(), blobs, repeats)
    print(f"| - | SHA-256, what the machine allows | {control:.2f} | |")
    for effort in ("fast", "balanced", "dense"):
        codec = get_codec("interframe", effort=effort)
        share = 8 if effort == "dense" else 1
        interframe_codec.MAX_THREADS = 1
        for name in TWICE:
            both = [_part(name, folder, PAIR_SAMPLES // share)] * 2
            streams = [codec.encode(frames) for frames in both]
            print(
                f"| {effort} | {name}, twice "
                f"| {_gain_beside(codec.encode, both, repeats):.2f} "
                f"| {_gain_beside(codec.decode, streams, repeats):.2f} |",
                flush=True,
            )
        if effort == "dense":
            continue
        for name in BIG:
            frames = load(name, folder)[:1]
            stream = codec.encode(frames)
            print(
                f"| {effort} | one image of {name} | {_gain_within(codec, codec.encode, frames, repeats):.2f} "
                f"| {_gain_within(codec, codec.decode, stream, repeats):.2f} |",
                flush=True,
            )


def _gain_beside(call: Callable[[Any], Any], inputs: list[Any], repeats: int) -> float:
    with ThreadPoolExecutor(len(inputs)) as pool:
        seconds = _wall(
            {
                "one": lambda: [call(value) for value in inputs],
                "two": lambda: list(pool.map(call, inputs)),
            },
            repeats,
        )
    return seconds["one"] / seconds["two"]


def _gain_within(codec: Codec, call: Callable[[Any], Any], value: Any, repeats: int) -> float:
    def run(n_threads: int) -> None:
        interframe_codec.MAX_THREADS = n_threads
        call(value)

    seconds = _wall({"one": lambda: run(1), "two": lambda: run(2)}, repeats)
    interframe_codec.MAX_THREADS = 1
    return seconds["one"] / seconds["two"]


def gil(folder: Path, repeats: int) -> None:
    """Print how long a second thread that sleeps for a millisecond has to wait: 8 ms if the GIL is held."""
    interframe_codec.MAX_THREADS = 1
    frames = _part("ct-thin", folder, PAIR_SAMPLES)
    jobs: dict[str, Job] = {"Python loop, for comparison": lambda: sum(i for i in range(5_000_000))}
    for effort in ("fast", "balanced", "dense"):
        codec = get_codec("interframe", effort=effort)
        stream = codec.encode(frames)
        jobs[f"{effort}, encode"] = partial(codec.encode, frames)
        jobs[f"{effort}, decode"] = partial(codec.decode, stream)
    print("| beside | median ms | 99th percentile |\n|---|---|---|")
    for name, job in jobs.items():
        waits = np.concatenate([_waits(job) for _ in range(repeats)])
        print(f"| {name} | {np.median(waits):.2f} | {np.percentile(waits, 99):.1f} |", flush=True)


def _waits(job: Job) -> Array:
    """Return the milliseconds between the wake-ups of a thread that sleeps for one, while `job` runs."""
    ended = threading.Event()
    ticks: list[float] = []

    def sleep_and_note() -> None:
        while not ended.is_set():
            ticks.append(time.perf_counter())
            time.sleep(0.001)

    sleeper = threading.Thread(target=sleep_and_note)
    sleeper.start()
    job()
    ended.set()
    sleeper.join()
    return 1000 * np.diff(ticks)


def auto(folder: Path, repeats: int) -> None:
    """Print the size of `auto`'s choice over the smallest of its candidates, and over the first of them.

    The frame that `auto` puts around the chosen stream, some 40 bytes, is left out.
    """
    interframe_codec.MAX_THREADS = 1
    heads = [f"budget {budget:g} | / best | / {named[0]}" for budget, named in BUDGETS.items()]
    print("| series (frames) | " + " | ".join(heads) + " |\n" + "|---" * (3 * len(heads) + 1) + "|")
    for name in (*SERIES, *MORE_GROUPS):
        if name in SERIES:
            frames = _part(name, folder, AUTO_SAMPLES)
        else:
            frames = corpus.series(MORE_GROUPS[name], MOST_FRAMES, folder)
        sizes: dict[str, int] = {}
        cells = []
        for budget, candidates in BUDGETS.items():
            for candidate in candidates:
                if candidate not in sizes:
                    sizes[candidate] = len(_named(candidate).encode(frames))
            best = min(sizes[candidate] for candidate in candidates)
            chosen = AutoCodec(budget, candidates).choose(frames)
            choice = next(candidate for candidate in candidates if _named(candidate) == chosen)
            size = sizes[choice]
            cells.append(f"{choice} | {size / best:.4f} | {size / sizes[candidates[0]]:.4f}")
        print(f"| {name} ({len(frames)}) | " + " | ".join(cells) + " |", flush=True)


def memory(folder: Path, repeats: int) -> None:
    """Print the peak of resident memory over frames and stream, each measured in a process of its own."""
    print("| frames | MB as stored | effort | encode MB | decode MB |\n|---|---|---|---|---|")
    for name in MEMORY:
        for effort in ("fast", "balanced", "dense"):
            if effort == "dense" and name not in ("ct-thin, 20 of 512 x 512", "4000 of 64 x 64"):
                continue
            stored, encode, data, checksum = _alone(_encode_peak, name, effort, folder)
            decode = _alone(_decode_peak, data, checksum)
            print(f"| {name} | {stored:.0f} | {effort} | {encode:.0f} | {decode:.0f} |", flush=True)


def _alone(call: Callable[..., Any], *arguments: Any) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(call, arguments)


def _encode_peak(name: str, effort: str, folder: Path) -> tuple[float, float, bytes, str]:
    """Return MB of the frames, the peak in encoding them over frames and stream, the stream, and their SHA-256."""
    interframe_codec.MAX_THREADS = 1
    frames = MEMORY[name](folder)
    references = [-1, *range(len(frames) - 1)] if "chain" in name else None
    codec = get_codec("interframe", effort=effort)
    codec.encode(frames[:2, :80, :80])  # kernels compiled
    before = _reset_peak()
    data = codec.encode(frames, references)
    encode = _peak() - before - len(data)
    return frames.nbytes / 1e6, encode / 1e6, data, hashlib.sha256(frames.tobytes()).hexdigest()


def _decode_peak(data: bytes, checksum: str) -> float:
    """Return the peak in MB in decoding a stream, over stream and frames."""
    interframe_codec.MAX_THREADS = 1
    codec = get_codec("interframe")
    small = np.arange(2 * 80 * 80, dtype=np.uint16).reshape(2, 80, 80) % 999
    for effort in ("balanced", "dense"):
        codec.decode(get_codec("interframe", effort=effort).encode(small))  # kernels compiled
    before = _reset_peak()
    frames = codec.decode(data)
    decode = _peak() - before - frames.nbytes
    if hashlib.sha256(frames.tobytes()).hexdigest() != checksum:
        raise SystemExit("decoded frames differ")
    return decode / 1e6


def _reset_peak() -> int:
    """Return the resident memory, in bytes, and forget the peak so far (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(field))


def _big(side: int, folder: Path) -> Array:
    """Return one image of `side` x `side` 16-bit samples: a mammogram over and over."""
    tile = load("mg-3062x2394", folder)[0]
    down, across = -(-side // tile.shape[0]), -(-side // tile.shape[1])
    return np.tile(tile, (down, across))[np.newaxis, :side, :side].copy()


def _many(n: int, folder: Path) -> Array:
    frames = load("fmri", folder)
    return np.concatenate([frames + i for i in range(-(-n // len(frames)))])[:n]


MEMORY: dict[str, Callable[[Path], Array]] = {
    "ct-thin, 20 of 512 x 512": partial(load, "ct-thin"),
    "one image of 10,000 x 10,000": partial(_big, 10_000),
    "4000 of 64 x 64": partial(_many, 4000),
    "16,000 of 64 x 64": partial(_many, 16_000),
    "ct-thick, a chain of 30": partial(load, "ct-thick"),
}


def _named(candidate: str) -> Codec:
    codec_id, _, effort = candidate.partition("/")
    return get_codec(codec_id, **({"effort": effort} if effort else {}))


PARTS = {
    "intra": intra,
    "sections": sections,
    "threads": threads,
    "gil": gil,
    "memory": memory,
    "auto": auto,
}


def main(arguments: list[str] | None = None) -> None:
    """Run the parts named, or all."""
    parser = argparse.ArgumentParser(prog="python -m bench.codecs_access", description=__doc__)
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    parser.add_argument("--corpus", type=Path, default=corpus.FOLDER)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    for part in options.parts or PARTS:
        PARTS[part](options.corpus, options.repeats)
        print()


if __name__ == "__main__":
    main()
