"""Coverage-guided fuzzing of the codecs' decoders, by libFuzzer through Atheris (`pip install atheris`).

    NUMBA_DISABLE_JIT=1 python -m tests.fuzz.codecs_coverage FOLDER --minutes 60
    NUMBA_BOUNDSCHECK=1 python -m tests.fuzz.codecs_coverage FOLDER --replay

The first lets the kernels run as plain Python, so that every branch in them counts as coverage, and keeps each
stream that reaches something new in FOLDER; the checksum is mended after each mutation. What raises anything
but CodecError there goes to FOLDER/suspects: arithmetic in plain Python differs from that of compiled
kernels. The second decodes all of them with the compiled kernels, every array access checked, which is what
counts. `dense` is left out: its kernel is written with vector instructions that have no form in plain Python.
"""

import argparse
import contextlib
import os
import random
import sys
import zlib
from pathlib import Path

import atheris
import numpy as np
from numpy.typing import NDArray

MAX_PIXELS = 1 << 12
LONGEST = 4096
"""Bytes of a stream."""

PLAIN = os.environ.get("NUMBA_DISABLE_JIT") == "1"

with atheris.instrument_imports(include=["dcmpress.codecs"]) if PLAIN else contextlib.nullcontext():
    from dcmpress.codecs.warm import warm_all
    from tests.fuzz import codecs as fuzz

    for _id, _parameters in fuzz.CODECS.values():  # the registry imports a codec when it is first asked for
        fuzz.get_codec(_id, **_parameters)


def _load64(buffer: NDArray[np.uint8], offset: int) -> np.uint64:
    """Stand in for `bits.load64`, which is one machine instruction; here its bounds are checked."""
    assert 0 <= int(offset) <= len(buffer) - 8, "load64 out of bounds"
    return np.uint64(int.from_bytes(buffer[int(offset) : int(offset) + 8].tobytes(), "little"))


if PLAIN:
    for _module in list(sys.modules.values()):
        if getattr(_module, "load64", None) is not None and _module.__name__.startswith("dcmpress.codecs"):
            vars(_module)["load64"] = _load64

COMPILED_ONLY = ("interframe-dense",)


NAMES = [name for name in fuzz.CODECS if name not in COMPILED_ONLY]


def seeds(folder: Path, chosen: list[str], n_each: int) -> None:
    """Write valid streams of small images of every kind."""
    chooser = random.Random(1)
    for name in chosen:
        codec = fuzz.get_codec(fuzz.CODECS[name][0], **fuzz.CODECS[name][1])
        number = list(fuzz.CODECS).index(name)
        for _ in range(n_each):
            frames = fuzz.images(chooser)[:3, : chooser.randint(1, 14), : chooser.randint(1, 14)]
            data = bytes([number, 255]) + fuzz.encoded(codec, frames)
            if len(data) <= LONGEST:
                (folder / f"seed-{name}-{zlib.crc32(data):08x}").write_bytes(data)


def outcome(data: bytes) -> tuple[str, str]:
    """Decode what a fuzzer's input stands for: codec, frame to select (255: all), stream."""
    name = list(fuzz.CODECS)[data[0] % len(fuzz.CODECS)]
    if PLAIN and name in COMPILED_ONLY:
        return name, "refused"
    codec = fuzz.get_codec(fuzz.CODECS[name][0], **fuzz.CODECS[name][1])
    select = None if data[1] >= 16 else [data[1]]
    return name, fuzz.tried(codec, fuzz.with_checksum(data[2:]), select)


def replay(folder: Path) -> int:
    """Decode everything that was kept, with compiled kernels; return how many fail."""
    warm_all([(name, parameters) for name, parameters in fuzz.CODECS.values()])  # compiling takes its time
    paths = [path for path in folder.rglob("*") if path.is_file()]
    failures = 0
    for path in paths:
        data = path.read_bytes()
        if len(data) < 2:
            continue
        name, what = outcome(data)
        if what in ("decoded", "refused"):
            continue
        failures += 1
        stream = fuzz.with_checksum(data[2:])
        fuzz.CRASHERS.mkdir(parents=True, exist_ok=True)
        (fuzz.CRASHERS / f"{name}.{zlib.crc32(stream):08x}").write_bytes(stream)
        print(f"{path}: {what}", flush=True)
    print(f"{len(paths)} streams replayed, {failures} failures")
    return failures


def explore(folder: Path, minutes: float, seed: int) -> None:
    """Let libFuzzer look for streams that reach new code. Does not return."""
    suspects = folder / "suspects"
    suspects.mkdir(exist_ok=True)
    fuzz.MAX_PIXELS = MAX_PIXELS

    def one_input(data: bytes) -> None:
        if len(data) < 2:
            return
        _, what = outcome(data)
        if what not in ("decoded", "refused"):
            # One suspect for each place where it came from says enough.
            where = [line for line in what.splitlines() if line.startswith("  File")][-1:]
            (suspects / f"{zlib.crc32(repr(where).encode()):08x}").write_bytes(data)

    def mutated(data: bytes, largest: int, seed: int) -> bytes:
        chooser = random.Random(seed)
        if len(data) > fuzz.HEADER_SIZE + 3 and chooser.random() < 0.5:
            body = fuzz.damaged(bytes(data[2:]), bytes(data[2:]), chooser)
            return (bytes(data[:2]) + body)[:largest]
        changed = bytes(atheris.Mutate(data, largest))
        return changed[:2] + fuzz.with_checksum(changed[2:])

    options = [
        f"-max_total_time={int(minutes * 60)}",
        f"-max_len={LONGEST}",
        f"-seed={seed}",
        "-rss_limit_mb=4096",
    ]
    atheris.Setup([sys.argv[0], str(folder), *options], one_input, custom_mutator=mutated)
    atheris.Fuzz()


def main() -> None:
    """Explore, or replay."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--replay", action="store_true")
    parser.add_argument("--codecs", default=",".join(NAMES))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    if arguments.replay:
        raise SystemExit(bool(replay(arguments.folder)))
    seeds(arguments.folder, arguments.codecs.split(","), 12)
    explore(arguments.folder, arguments.minutes, arguments.seed)


if __name__ == "__main__":
    main()
