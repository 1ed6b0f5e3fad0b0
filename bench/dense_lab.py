"""Size and time of the backward-adaptive core against CharLS and JPEG XL effort 9, series by series.

    python bench/dense_lab.py [--corpus FOLDER] [--frames N] [--group N] [--series NAME ...]

Every stream is decoded and compared. The peers run on the same frames in the same run, on one thread; time
is CPU time of this thread. JPEG XL is per frame, as PACS would store it. Samples of sparse histograms are
numbered by rank before the core sees them, as the container does; the map is charged with one bit for each
possible value.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray

from dcmpress.codecs.interframe.backward import decode_planes, encode_planes

SERIES = (
    "CT-LIDC0314-thin",
    "CT-LungDxA0002",
    "MR-GE-T1-3D",
    "MR-GE-fMRI",
    "MR-enhanced-MF",
    "MR-heart-cine-MF",
    "PT-QINHN0024",
    "XA-catheter",
    "US-EPIQ-cine",
)
SINGLES = "CR-DX-MG"


def read(folder: Path) -> list[tuple[str, tuple[float, int], NDArray[Any]]]:
    """Return (file name, place in the series, frames) of every grey image in `folder`."""
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        try:
            data_set = pydicom.dcmread(path)
            if data_set.BitsAllocated not in (8, 16) or data_set.SamplesPerPixel != 1:
                continue
            pixels = data_set.pixel_array
        except (AttributeError, KeyError, ValueError, pydicom.errors.InvalidDicomError):
            continue
        position = 0.0
        if "ImagePositionPatient" in data_set and "ImageOrientationPatient" in data_set:
            cosines = [float(v) for v in data_set.ImageOrientationPatient]
            normal = np.cross(cosines[:3], cosines[3:])
            position = round(float(normal @ [float(v) for v in data_set.ImagePositionPatient]), 2)
        place = (position, int(data_set.get("InstanceNumber") or 0))
        found.append((path.name, place, pixels[None] if pixels.ndim == 2 else pixels))
    return found


def unsigned(frames: NDArray[Any]) -> NDArray[np.uint16]:
    return (frames.astype(np.int64) - min(0, int(frames.min()))).astype(np.uint16)


def packed(planes: NDArray[np.uint16]) -> tuple[NDArray[np.uint16], int]:
    """Return the planes with samples numbered by rank, if fewer than 60 % occur, and the map's bytes."""
    used = np.unique(planes)
    span = int(used[-1]) - int(used[0]) + 1
    if len(used) >= 0.6 * span:
        return planes, 0
    rank = np.zeros(65536, np.uint16)
    rank[used] = np.arange(len(used))
    return rank[planes], span // 8 + 1


def timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    start = time.thread_time()
    result = function(*arguments)
    return result, time.thread_time() - start


def measure(name: str, frames: NDArray[Any], group: int) -> tuple[float, float, float, float]:
    planes, map_size = packed(unsigned(frames))
    top = int(planes.max())
    native = unsigned(frames)
    peer_frames = native.astype(np.uint8) if native.max() < 256 else native
    size, encode_time, decode_time, peer_encode, peer_decode = map_size, 0.0, 0.0, 0.0, 0.0
    charls = jxl = 0
    for start in range(0, len(planes), group):
        part = np.ascontiguousarray(planes[start : start + group])
        data, spent = timed(encode_planes, part, top)
        encode_time += spent
        for frame in peer_frames[start : start + group]:
            coded, spent = timed(imagecodecs.jpegls_encode, frame)
            peer_encode += spent
            _, spent = timed(imagecodecs.jpegls_decode, coded)
            peer_decode += spent
            charls += len(coded)
            jxl += len(imagecodecs.jpegxl_encode(frame, lossless=True, effort=9, numthreads=1))
        back, spent = timed(decode_planes, data, part.shape, top)
        decode_time += spent
        if not np.array_equal(back, part):
            raise SystemExit(f"{name}: decoded samples differ")
        size += len(data)
    row = (size / charls, size / jxl, encode_time / peer_encode, decode_time / peer_decode)
    shape = "x".join(str(n) for n in frames.shape)
    print(
        f"| {name} | {shape} | {8 * charls / frames.size:.3f} | {8 * jxl / frames.size:.3f} "
        f"| {8 * size / frames.size:.4f} | {row[0]:.3f} | {row[1]:.3f} "
        f"| {encode_time / frames.size * 1e9:.0f} | {decode_time / frames.size * 1e9:.0f} "
        f"| {row[2]:.1f} | {row[3]:.1f} |",
        flush=True,
    )
    return row


def main() -> None:
    here = Path(__file__).resolve().parents[1]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    default = os.environ.get("DCMPRESS_CORPUS", here.parent / "shared" / "corpus")
    parser.add_argument("--corpus", type=Path, default=Path(default))
    parser.add_argument("--frames", type=int, default=1 << 20, help="at most so many of each series")
    parser.add_argument("--group", type=int, default=1 << 20, help="planes that share one stream")
    parser.add_argument("--series", nargs="*", default=[*SERIES, SINGLES])
    arguments = parser.parse_args()
    warm = np.zeros((2, 8, 8), np.uint16)
    decode_planes(encode_planes(warm, 5), warm.shape, 5)
    columns = "series|frames|CharLS bpp|JXL 9 bpp|dense bpp|/CharLS|/JXL 9|enc ns|dec ns|enc x|dec x"
    print("| " + columns.replace("|", " | ") + " |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    rows = []
    for name in arguments.series:
        images = read(arguments.corpus / name)
        if name == SINGLES:
            rows += [measure(file, frames, 1) for file, _, frames in images]
            continue
        images.sort(key=lambda image: image[1])
        shape = images[0][2].shape[1:]
        series = [frames for _, _, frames in images if frames.shape[1:] == shape]
        rows.append(measure(name, np.concatenate(series)[: arguments.frames], arguments.group))
    medians = np.median(np.array(rows), axis=0)
    print("medians: /CharLS {:.3f}, /JXL 9 {:.3f}, encode {:.1f} x, decode {:.1f} x".format(*medians))


if __name__ == "__main__":
    main()
