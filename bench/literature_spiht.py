"""System 3: rate and distortion of SPIHT beside JPEG 2000, and what the groups of three bits save."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from openjpeg.utils import decode_pixel_data, encode_array
from tests import corpus

from bench.literature_report import Table
from dcmpress.codecs.measures import peak_of, psnr, ssim
from dcmpress.codecs.registry import get_codec
from dcmpress.codecs.spiht import Spiht, SpihtLossy
from dcmpress.codecs.spiht_groups import pack_deflate, pack_groups
from dcmpress.codecs.spiht_image import plane_bits
from dcmpress.codecs.spiht_tree import default_levels, make_tree
from dcmpress.codecs.wavelets import forward_53

IMAGES = {
    "CT": "CT-LIDC0314-thin",
    "MR": "MR-GE-T1-3D",
    "XA": "XA-catheter",
    "US": "US-EPIQ-cine",
    "PET": "PT-QINHN0024",
}
RATES = (0.1, 0.25, 0.5, 1.0, 1.5, 2.0)


def images(folder: Path) -> dict[str, NDArray[Any]]:
    """Return one frame of each modality, from the middle of its series, shape (1, rows, columns)."""
    found = {}
    for name, group in IMAGES.items():
        frames = corpus.series(group, None, folder)
        found[name] = np.ascontiguousarray(frames[len(frames) // 2][np.newaxis])
    return found


def _jpeg_2000(image: NDArray[Any], rate: float) -> tuple[float, NDArray[Any]]:
    """Return bits per pixel and the image from irreversible JPEG 2000 at about `rate` bits per pixel."""
    lowest = int(image.min())
    values = (image.astype(np.int64) - lowest).astype(np.uint16 if image.itemsize == 2 else np.uint8)
    stored = max(int(values.max()).bit_length(), 8 if values.itemsize == 1 else 9)
    data = encode_array(values, bits_stored=stored, compression_ratios=[stored / rate], codec_format=0)
    decoded = np.frombuffer(decode_pixel_data(data, version=2), values.dtype).reshape(values.shape)
    return 8 * len(data) / values.size, decoded.astype(np.int64) + lowest


def _groups(image: NDArray[Any]) -> list[float]:
    """Return bits per pixel of the raw SPIHT bits, in groups of three, and through Deflate, without headers."""
    levels = default_levels(*image.shape)
    tree = make_tree(*image.shape, levels, True)
    centred = image.astype(np.int32) - np.int32(int(image.mean()))
    planes = plane_bits(tree.gather(forward_53(centred, levels)), tree)
    raw = sum(bits.size for bits in planes)
    grouped = 8 * sum(len(pack_groups(bits)) for bits in planes)
    deflated = 8 * sum(len(pack_deflate(bits)) for bits in planes)
    return [raw / image.size, grouped / image.size, deflated / image.size, 100 * (1 - grouped / raw)]


def tables(folder: Path) -> list[Table]:
    """Return the rate-distortion table and the lossless one."""
    curve = Table(
        "spiht_rate_distortion",
        "Rate and distortion",
        "PSNR in dB with the peak 2^b - 1 of the image's own bits b; SSIM with a Gaussian window. `5/3 prefix`: "
        "the first bytes of the lossless stream. `bior4.4`: `spiht-lossy`. JPEG 2000: OpenJPEG, 9/7, at "
        "the rate that it reached.",
        [
            "image",
            "bits/pixel",
            "PSNR 5/3 prefix",
            "PSNR bior4.4",
            "PSNR JPEG 2000",
            "SSIM 5/3 prefix",
            "SSIM bior4.4",
            "SSIM JPEG 2000",
            "bits/pixel JPEG 2000",
        ],
        formats=dict.fromkeys(("SSIM 5/3 prefix", "SSIM bior4.4", "SSIM JPEG 2000"), ".4f")
        | {"bits/pixel JPEG 2000": ".3f"},
    )
    exact = Table(
        "spiht_lossless",
        "Lossless, and what the groups save",
        "Bits per pixel. Raw: the bits of all planes; groups: in threes under a Huffman code for each plane; "
        "saved: by the groups, in per cent. The streams include all headers.",
        [
            "image",
            "raw",
            "groups",
            "Deflate",
            "saved %",
            "spiht",
            "spiht deflate",
            "JPEG 2000",
            "JPEG-LS",
            "bytes for 40 dB",
            "of all bytes %",
        ],
        formats={"raw": ".3f", "groups": ".3f", "Deflate": ".3f"},
    )
    for name, frames in images(folder).items():
        codec = Spiht()
        data = codec.encode(frames)
        if not np.array_equal(codec.decode(data), frames):
            raise SystemExit(f"{name}: decoded frames differ")
        peak = peak_of(frames)
        for rate in RATES:
            prefix = codec.decode_prefix(data[: int(frames.size * rate / 8)])[0]
            lossy = SpihtLossy(rate)
            cut = lossy.decode(lossy.encode(frames))[0]
            reached, jpeg_2000 = _jpeg_2000(frames[0], rate)
            decoded = (prefix, cut, jpeg_2000)
            curve.rows.append(
                [
                    name,
                    rate,
                    *(psnr(frames[0], d, peak) for d in decoded),
                    *(ssim(frames[0], d, peak) for d in decoded),
                    reached,
                ]
            )
        sizes = [
            len(get_codec(codec_id, **parameters).encode(frames))
            for codec_id, parameters in (
                ("spiht", {}),
                ("spiht", {"entropy": "deflate"}),
                ("jpeg-2000", {}),
                ("jpeg-ls", {}),
            )
        ]
        enough = next(
            end for end in codec.plane_ends(data) if psnr(frames, codec.decode_prefix(data[:end]), peak) >= 40
        )
        exact.rows.append(
            [
                name,
                *_groups(frames[0]),
                *(8 * size / frames.size for size in sizes),
                enough,
                100 * enough / len(data),
            ]
        )
    return [curve, exact]
