"""A frame as a person sees it: modality LUT, window, palette and colour space applied (PS3.3 C.11, PS3.4 N.2)."""

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_dataset
from pydicom.pixels import (
    apply_color_lut,
    apply_modality_lut,
    apply_voi_lut,
    convert_color_space,
    pixel_array,
)
from pydicom.uid import UID

from dcmpress.storage.elements import DEFLATED_SYNTAXES, encoding_of, inflate
from dcmpress.storage.errors import ConversionError
from dcmpress.storage.transcode import LARGEST_INFLATED


def parse(data: bytes, transfer_syntax_uid: str) -> Dataset:
    """Return an encoded data set as pydicom's, with the file meta that its decoders need."""
    if transfer_syntax_uid in DEFLATED_SYNTAXES:
        data = inflate(data, LARGEST_INFLATED)
    encoding = encoding_of(transfer_syntax_uid)
    data_set = Dataset(read_dataset(BytesIO(data), not encoding.explicit, encoding.little_endian))
    data_set.set_original_encoding(not encoding.explicit, encoding.little_endian)
    data_set.file_meta = FileMetaDataset()
    data_set.file_meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    return data_set


def render(data_set: Dataset, frame: int = 0, window: tuple[float, float] | None = None) -> NDArray[np.uint8]:
    """Return one frame for display.

    Parameters
    ----------
    data_set : Dataset
        As `parse` returns it.
    frame : int
        From 0.
    window : (centre, width), optional
        In the units of the modality LUT (Hounsfield units for CT). None: the data set's own first window,
        or the whole range of the frame.

    Returns
    -------
    ndarray, uint8, shape (rows, columns) or (rows, columns, 3)

    Raises
    ------
    ConversionError
        If there is no such frame, or it cannot be decoded.
    """
    try:
        if "PixelData" not in data_set:
            raise ConversionError("no pixel data")
        n_frames = int(data_set.get("NumberOfFrames") or 1)
        if not 0 <= frame < n_frames:
            raise ConversionError(f"there are frames 0 to {n_frames - 1}, none {frame}")
        samples = pixel_array(data_set, index=frame, raw=True)
        photometric = str(data_set.get("PhotometricInterpretation", "MONOCHROME2"))
        if photometric == "PALETTE COLOR":
            colours = apply_color_lut(samples, data_set)
            return _to_bytes(colours / (np.iinfo(colours.dtype).max / 255.0))
        if samples.ndim == 3:
            if photometric.startswith("YBR"):
                samples = convert_color_space(samples, photometric, "RGB")
            return _to_bytes(samples / 2 ** max(0, int(data_set.get("BitsStored", 8)) - 8))
        grey = _grey(samples, data_set, window)
        return 255 - grey if photometric == "MONOCHROME1" else grey
    except ConversionError:
        raise
    except Exception as error:  # pydicom and its decoders raise whatever the data provokes
        raise ConversionError(f"cannot be shown: {error}") from error


def _grey(samples: NDArray[Any], data_set: Dataset, window: tuple[float, float] | None) -> NDArray[np.uint8]:
    values = np.asarray(apply_modality_lut(samples, data_set), np.float64)
    if window is None and "WindowCenter" in data_set:
        window = _first(data_set.WindowCenter), _first(data_set.WindowWidth)
    elif window is None and "VOILUTSequence" in data_set:
        values = np.asarray(apply_voi_lut(values, data_set, index=0), np.float64)
    if window is None:
        low, high = float(values.min()), float(values.max())
        return _to_bytes((values - low) * (255.0 / max(high - low, 1e-9)))
    centre, width = window
    # PS3.3 C.11.2.1.2.1: linear between centre - 0.5 -+ (width - 1) / 2.
    return _to_bytes(((values - (centre - 0.5)) / max(width - 1, 1e-9) + 0.5) * 255.0)


def _first(value: Any) -> float:
    return float(value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value)


def _to_bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
