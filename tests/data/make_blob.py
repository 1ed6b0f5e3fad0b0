"""Writes tests/data/blob-v1.dcmb and blob-v1.json: run once, for a new format version only.

    PYTHONPATH=src:. python -m tests.data.make_blob FILE_NAME [pixel-exact]

A golden file is never written again: what it pins is that every later version reads it.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from dcmpress.storage.compress import CodecChoice, CompressJob, compress
from dcmpress.storage.elements import EXPLICIT_VR_BIG_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN
from dcmpress.storage.part10 import FileMeta
from dcmpress.storage.spool import Spool, SpoolEntry
from dcmpress.storage.transcode import convert
from tests.storage.objects import MR_IMAGE, SENDER, encoded, image, picture

HTJ2K = "1.2.840.10008.1.2.4.201"
FOLDER = Path(__file__).parent


def data_sets() -> list[tuple[bytes, str]]:
    """Return (data set, transfer syntax): three slices, a colour cine, big endian, padding, no image."""
    slices = [(encoded(image(k, picture(24, 32, seed=k))), EXPLICIT_VR_LITTLE_ENDIAN) for k in (1, 2, 3)]
    colour = np.stack([picture(16, 16, 3, seed=9) >> 4] * 3, axis=-1).astype(np.uint8)
    cine = image(4, colour, PlanarConfiguration=0, SamplesPerPixel=3, PhotometricInterpretation="RGB")
    big = encoded(image(5, picture(8, 10).byteswap(), PixelRepresentation=1), EXPLICIT_VR_BIG_ENDIAN)
    padded = encoded(image(6, picture(8, 10)))[:-160]
    report = Dataset()
    report.SOPInstanceUID = "1.2.826.0.1.3680043.10.1.2.7"
    report.TextValue = "no image"
    return [
        *slices,
        (encoded(cine), EXPLICIT_VR_LITTLE_ENDIAN),
        (big, EXPLICIT_VR_BIG_ENDIAN),
        (padded + picture(8, 10).tobytes() + b"odd", EXPLICIT_VR_LITTLE_ENDIAN),
        (encoded(report), EXPLICIT_VR_LITTLE_ENDIAN),
    ]


def pixel_exact_data_sets() -> list[tuple[bytes, str]]:
    """Return a slice as it is and two in HTJ2K, which are kept as samples."""
    noise = np.random.default_rng(4).integers(0, 3, (3, 24, 32)).astype(np.uint16)
    slices = [encoded(image(k + 1, picture(24, 32) + noise[k : k + 1])) for k in range(3)]
    htj2k = [b"".join(convert(data, EXPLICIT_VR_LITTLE_ENDIAN, HTJ2K).pieces()) for data in slices[1:]]
    return [(slices[0], EXPLICIT_VR_LITTLE_ENDIAN), *((data, HTJ2K) for data in htj2k)]


def write(path: Path, instances: list[tuple[bytes, str]], choice: CodecChoice) -> None:
    """Write the blob at `path` and, beside it, the SHA-256 of each data set received by instance UID."""
    with tempfile.TemporaryDirectory() as folder:
        spool = Spool(Path(folder))
        entries: list[SpoolEntry] = []
        digests: dict[str, str] = {}
        for number, (data, syntax) in enumerate(instances, 1):
            uid = f"1.2.826.0.1.3680043.10.1.2.{number}"
            writer = spool.begin(FileMeta(MR_IMAGE, uid, syntax), SENDER)
            writer.write(data)
            entries.append(writer.finish())
            digests[uid] = hashlib.sha256(data).hexdigest()
        compress(CompressJob(entries, folder, str(path), choice))
        spool.close()
    path.with_suffix(".json").write_text(json.dumps(digests, indent=1) + "\n")


if __name__ == "__main__":
    if sys.argv[2:] == ["pixel-exact"]:
        exact = CodecChoice("interframe", {"effort": "fast"}, pixel_exact=True)
        write(FOLDER / sys.argv[1], pixel_exact_data_sets(), exact)
    else:
        write(FOLDER / sys.argv[1], data_sets(), CodecChoice("jpeg-ls"))
