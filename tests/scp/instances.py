"""Small instances made for a test, as bytes on the wire."""

from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import generate_uid

from tests.scp.wire import EXPLICIT, IMPLICIT, MR


def encoded(data_set: Dataset, syntax: str = EXPLICIT) -> bytes:
    """Return a data set in implicit or explicit VR little endian."""
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = syntax == IMPLICIT
    buffer.is_little_endian = True
    write_dataset(buffer, data_set)
    return buffer.getvalue()


def image(
    number: int = 1, size: int = 32, sop_class: str = MR, uid: str = "", **attributes: Any
) -> tuple[str, Dataset]:
    """Return (SOP Instance UID, data set) of a small grey image with noise in it."""
    data_set = Dataset()
    data_set.SOPClassUID = sop_class
    data_set.SOPInstanceUID = uid or generate_uid()
    data_set.StudyDate = "20240102"
    data_set.Modality = "MR"
    data_set.PatientName = "Test^Image"
    data_set.PatientID = "T1"
    data_set.StudyInstanceUID = "1.2.826.0.1.3680043.8.498.1"
    data_set.SeriesInstanceUID = "1.2.826.0.1.3680043.8.498.1.1"
    data_set.InstanceNumber = number
    data_set.SamplesPerPixel = 1
    data_set.PhotometricInterpretation = "MONOCHROME2"
    data_set.Rows = data_set.Columns = size
    data_set.BitsAllocated = 16
    data_set.BitsStored = 12
    data_set.HighBit = 11
    data_set.PixelRepresentation = 0
    pixels = np.random.default_rng(number).integers(0, 4096, (size, size), dtype=np.uint16)
    data_set.add_new(0x7FE00010, "OW", pixels.tobytes())
    for keyword, value in attributes.items():
        setattr(data_set, keyword, value)
    return data_set.SOPInstanceUID, data_set


def instances(count: int, **attributes: Any) -> dict[str, bytes]:
    """Return UID -> data set in explicit VR little endian, numbered from 1, all of one series."""
    made = (image(number, **attributes) for number in range(1, count + 1))
    return {uid: encoded(data_set) for uid, data_set in made}
