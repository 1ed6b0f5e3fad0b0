"""What the benchmark sends: CT, MR and multi-frame objects with anatomy-like shapes and noise.

Made by numpy and pydicom from fixed seeds. The UIDs and the Patient ID carry a token of fixed length, so
that the same bytes can be sent again as another patient's study.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

CT = "1.2.840.10008.5.1.4.1.1.2"
MR = "1.2.840.10008.5.1.4.1.1.4"
MULTI_FRAME = "1.2.840.10008.5.1.4.1.1.7.3"
"""Multi-frame Grayscale Word Secondary Capture Image Storage."""

_TOKEN = "77700077"
_ROOT = "1.2.826.0.1.3680043.8.498"


@dataclass(frozen=True)
class Instance:
    """One object: its UIDs and its data set in explicit VR little endian."""

    sop_class_uid: str
    sop_instance_uid: str
    data: bytes

    def renamed(self, token: int) -> "Instance":
        """Return the same object of another patient; `token` from 0 to 99,999,999."""
        text = f"{token:08d}"
        uid = self.sop_instance_uid.replace(_TOKEN, text)
        head = self.data[:4096].replace(_TOKEN.encode(), text.encode())
        return Instance(self.sop_class_uid, uid, head + self.data[4096:])


def series_uid(token: int) -> str:
    """Return the Series Instance UID of every object that was renamed to `token`."""
    return f"{_ROOT}.1{token:08d}.2"


def study_uid(token: int) -> str:
    """Return the Study Instance UID of every object that was renamed to `token`."""
    return f"{_ROOT}.1{token:08d}.1"


def patient_id(token: int) -> str:
    """Return the Patient ID of every object that was renamed to `token`."""
    return f"P{token:08d}"


def ct_series(n: int) -> list[Instance]:
    """Return `n` CT slices, 512 x 512, 16 bits."""
    return [_instance(CT, "CT", number, pixels[None]) for number, pixels in _slices(n, 512, 1)]


def mr_series(n: int) -> list[Instance]:
    """Return `n` MR images, 128 x 128, 16 bits."""
    return [_instance(MR, "MR", number, pixels[None]) for number, pixels in _slices(n, 128, 2)]


def multi_frame(n_frames: int) -> list[Instance]:
    """Return one object of `n_frames` frames of 512 x 512 in 16 bits; 400 of them are 210 MB."""
    frames = np.stack([pixels for _, pixels in _slices(n_frames, 512, 3)])
    return [_instance(MULTI_FRAME, "OT", 1, frames)]


def identifier(fill: Callable[[Dataset], None]) -> bytes:
    """Return the identifier that `fill` writes, in implicit VR little endian."""
    ds = Dataset()
    fill(ds)
    return _encoded(ds, implicit=True)


def _slices(n: int, side: int, seed: int) -> Iterator[tuple[int, NDArray[np.int16]]]:
    """Yield (number, int16 pixels): ellipses that drift from slice to slice, and correlated noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j].astype(np.float32)
    for number in range(1, n + 1):
        phase = number / 40
        image = np.full((side, side), 24, np.float32)
        body = (x / 0.82) ** 2 + (y / 0.62) ** 2 < 1
        image[body] = 1040 + 60 * np.sin(3 * x[body] + phase)
        for k in range(5):
            cx, cy = 0.45 * np.cos(k * 1.26 + phase / 3), 0.32 * np.sin(k * 1.26 + phase / 5)
            organ = ((x - cx) / (0.16 + 0.02 * k)) ** 2 + ((y - cy) / 0.13) ** 2 < 1
            image[organ] += 90 - 55 * k
        noise = random.standard_normal((side, side), np.float32)
        noise += 0.5 * (np.roll(noise, 1, 0) + np.roll(noise, 1, 1))
        image += np.where(body, 11, 3) * noise
        yield number, np.clip(image, 0, 4095).astype(np.int16)


def _instance(sop_class: str, modality: str, number: int, frames: NDArray[np.int16]) -> Instance:
    uid = f"{_ROOT}.1{_TOKEN}.3.{number}"
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.SOPClassUID, ds.SOPInstanceUID = sop_class, uid
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20260102"
    ds.StudyTime, ds.SeriesTime, ds.ContentTime = "101500", "101730.5", f"1018{number % 60:02d}.25"
    ds.AccessionNumber, ds.Modality, ds.Manufacturer = "A4711", modality, "Bench Imaging"
    ds.InstitutionName, ds.StationName = "General Hospital", "BENCH1"
    ds.ReferringPhysicianName = "Referring^Robin"
    ds.StudyDescription, ds.SeriesDescription = "Benchmark study", "Body 1.0 B30f"
    ds.PatientName, ds.PatientID = "Bench^Patient", f"P{_TOKEN}"
    ds.PatientBirthDate, ds.PatientSex, ds.PatientAge = "19600403", "O", "065Y"
    ds.BodyPartExamined, ds.SliceThickness, ds.KVP = "ABDOMEN", "1.0", "120"
    ds.DeviceSerialNumber, ds.SoftwareVersions, ds.ProtocolName = "4711", "V1.0", "Abdomen routine"
    ds.XRayTubeCurrent, ds.ExposureTime, ds.ConvolutionKernel = "240", "500", "B30f"
    ds.PatientPosition = "HFS"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{_ROOT}.1{_TOKEN}.1", f"{_ROOT}.1{_TOKEN}.2"
    ds.FrameOfReferenceUID = f"{_ROOT}.1{_TOKEN}.4"
    ds.StudyID, ds.SeriesNumber, ds.AcquisitionNumber, ds.InstanceNumber = "1", "3", "1", str(number)
    ds.ImagePositionPatient = ["-170.5", "-170.5", f"{-300 + number:.1f}"]
    ds.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    ds.SliceLocation = f"{-300 + number:.1f}"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    if len(frames) > 1:
        ds.NumberOfFrames = str(len(frames))
    ds.Rows, ds.Columns = frames.shape[1:]
    ds.PixelSpacing = ["0.6660", "0.6660"]
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.WindowCenter, ds.WindowWidth = "40", "400"
    ds.RescaleIntercept, ds.RescaleSlope = "-1024", "1"
    ds.PixelData = frames.astype("<i2").tobytes()
    ds["PixelData"].VR = "OW"
    return Instance(sop_class, uid, _encoded(ds, implicit=False))


def _encoded(ds: Dataset, *, implicit: bool) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, implicit
    write_dataset(buffer, ds)
    return bytes(buffer.getvalue())
