"""Other people's decoders, as judges of the frames that the node encodes: never the library that encoded them."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import generate_frames
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_file_meta_info
from pydicom.pixels import get_decoder
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tests.nodes import dcmtk

PREFIX = "1.2.840.10008.1.2."
BY_DCMTK = {
    PREFIX + "5": ["dcmdrle"],
    PREFIX + "4.57": ["dcmdjpeg", "+cn"],
    PREFIX + "4.70": ["dcmdjpeg", "+cn"],
    PREFIX + "4.80": ["dcmdjpls"],
    PREFIX + "1.99": ["dcmconv", "+te"],
}
"""Transfer syntax -> program; its frames were encoded by other libraries, but for zlib."""

BY_PYDICOM = {PREFIX + "4.90": "gdcm", PREFIX + "4.201": "pylibjpeg", PREFIX + "4.202": "pylibjpeg"}
"""Transfer syntax -> plugin: GDCM has an OpenJPEG of its own; pylibjpeg's OpenJPEG judges OpenJPH."""

JPEG_XL = PREFIX + "4.110"
"""There is one maintained JPEG XL library; its decoder is the only judge of its encoder."""


def read(data: bytes, transfer_syntax_uid: str) -> Dataset:
    """Return an encoded data set (not a deflated one) as pydicom's, with file meta."""
    implicit = transfer_syntax_uid == ImplicitVRLittleEndian
    data_set = Dataset(read_dataset(BytesIO(data), implicit, True))
    data_set.set_original_encoding(implicit, True)
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = transfer_syntax_uid
    data_set.file_meta.MediaStorageSOPClassUID = data_set.SOPClassUID
    data_set.file_meta.MediaStorageSOPInstanceUID = data_set.SOPInstanceUID
    return data_set


def words(data_set: Dataset, plugin: str = "") -> NDArray[Any]:
    """Return the samples of a data set as unsigned words, (frames, rows, columns, samples).

    Unused high bits are 0: decoders differ in whether they hold signs or what they held.
    """
    array, _ = get_decoder(data_set.file_meta.TransferSyntaxUID).as_array(
        data_set, raw=True, decoding_plugin=plugin
    )
    shape = (-1, data_set.Rows, data_set.Columns, data_set.SamplesPerPixel)
    return _used(array.reshape(shape), data_set)


def _used(array: NDArray[Any], data_set: Dataset) -> NDArray[Any]:
    unsigned = np.ascontiguousarray(array).view(f"u{array.dtype.itemsize}")
    return unsigned & unsigned.dtype.type((1 << int(data_set.BitsStored)) - 1)


def judged(data: bytes, transfer_syntax_uid: str, folder: Path) -> NDArray[Any]:
    """Return the samples of a received data set, as `words` does, decoded by somebody else."""
    if transfer_syntax_uid in BY_PYDICOM:
        return words(read(data, transfer_syntax_uid), BY_PYDICOM[transfer_syntax_uid])
    if transfer_syntax_uid == JPEG_XL:
        return _jpeg_xl(read(data, transfer_syntax_uid))
    received, decoded = folder / "received.dcm", folder / "decoded.dcm"
    write_part10(data, transfer_syntax_uid, received)
    decoded.unlink(missing_ok=True)
    program, *options = BY_DCMTK[transfer_syntax_uid]
    dcmtk(program, *options, received, decoded)
    data_set = dcmread(decoded)
    assert data_set.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
    return words(data_set)


def _jpeg_xl(data_set: Dataset) -> NDArray[Any]:
    n = int(data_set.get("NumberOfFrames") or 1)
    decode: Callable[[bytes], Any] = imagecodecs.jpegxl_decode
    frames = [np.asarray(decode(frame)) for frame in generate_frames(data_set.PixelData, number_of_frames=n)]
    shape = (n, data_set.Rows, data_set.Columns, data_set.SamplesPerPixel)
    return _used(np.stack(frames).reshape(shape), data_set)


def write_part10(data: bytes, transfer_syntax_uid: str, path: Path) -> None:
    """Write an encoded data set as it is, with file meta before it."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = transfer_syntax_uid
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    with path.open("wb") as file:
        file.write(bytes(128) + b"DICM")
        write_file_meta_info(file, meta)
        file.write(data)
