"""How many megabytes a second this machine can compress, measured in a second or two on a series made for it."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

from dcmpress.storage.compress import CodecChoice, CompressJob, compress
from dcmpress.storage.part10 import FileMeta
from dcmpress.storage.spool import Sender, Spool

_SLICES, _SIDE = 8, 512
_MEASURED = 0.3
"""Seconds that each codec is measured for, at least once after a first run that does not count."""


def compression_rates(choices: Sequence[CodecChoice]) -> list[float]:
    """Return megabytes (10^6 bytes) of images that one worker compresses in a second, for each choice.

    Everything that a worker does is counted in CPU time: reading, coding, decoding again to verify.
    """
    with tempfile.TemporaryDirectory(prefix="dcmpress-check-") as folder:
        spool = Spool(Path(folder) / "spool")
        entries = []
        for number, data in enumerate(_series()):
            meta = FileMeta(CTImageStorage, f"2.25.{number + 1}", ExplicitVRLittleEndian)
            writer = spool.begin(meta, Sender())
            writer.write(data)
            entries.append(writer.finish())
        staged = Path(folder) / "staged.dcmb"
        rates = []
        for choice in choices:
            job = CompressJob(entries, str(Path(folder) / "spool"), str(staged), choice)
            seconds: list[float] = []
            started = time.monotonic()
            while len(seconds) < 2 or time.monotonic() - started < _MEASURED:
                result = compress(job)
                staged.unlink()
                seconds.append(result.seconds)
            rates.append(result.raw_size / 1e6 / min(seconds[1:]))
        spool.close()
    return rates


def _series() -> Iterator[bytes]:
    """Yield the data sets of a CT series: a body with organs that drift from slice to slice, and noise."""
    random = np.random.default_rng(1)
    y, x = np.mgrid[-1 : 1 : _SIDE * 1j, -1 : 1 : _SIDE * 1j]
    for number in range(_SLICES):
        body = (x / 0.82) ** 2 + (y / 0.62) ** 2 < 1
        image = np.where(body, 1040 + 60 * np.sin(3 * x + number / 40), 24)
        for k in range(5):
            angle = 1.26 * k + number / 60
            organ = ((x - 0.45 * np.cos(angle)) / 0.2) ** 2 + ((y - 0.32 * np.sin(angle)) / 0.13) ** 2 < 1
            image[organ] += 90 - 55 * k
        image += np.where(body, 12, 4) * random.standard_normal((_SIDE, _SIDE))
        ds = Dataset()
        ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = CTImageStorage, f"2.25.{number + 1}", "CT"
        ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.InstanceNumber = "2.25.100", "2.25.101", str(number)
        ds.ImagePositionPatient = ["0", "0", str(number)]
        ds.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.Rows = ds.Columns = _SIDE
        ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
        ds.PixelData = np.clip(image, 0, 4095).astype("<u2").tobytes()
        ds["PixelData"].VR = "OW"
        buffer = DicomBytesIO()
        buffer.is_little_endian, buffer.is_implicit_VR = True, False
        write_dataset(buffer, ds)
        yield bytes(buffer.getvalue())
