"""Samples of a JPEG 2000 image and its wavelet coefficients: level shift, colour and wavelet (T.800 annexes F, G)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.jpeg_2000.geometry import Geometry
from dcmpress.codecs.jpeg_2000.headers import Parameters
from dcmpress.codecs.jpeg_2000.wavelet import analyse, from_components, synthesise, to_components


def to_planes(frame: NDArray[Any], p: Parameters, g: Geometry) -> NDArray[np.int32]:
    """Return the coefficients of samples: (components, rows, columns), each tile's bands where it is."""
    planes = np.ascontiguousarray(frame.reshape(*frame.shape[:2], -1).transpose(2, 0, 1), np.int32)
    for plane, precision, signed in zip(planes, p.precisions, p.signed, strict=True):
        middle = 1 << precision - 1
        plane &= 2 * middle - 1
        if signed:
            plane ^= middle
        plane -= middle
    if p.colour:
        to_components(planes)
    for (top, left, bottom, right), bounds in g.tiles:
        for plane in planes:
            analyse(plane[top:bottom, left:right], bounds)
    return planes


def to_frame(planes: NDArray[np.int32], p: Parameters, g: Geometry, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Undo `to_planes`; samples are taken modulo their precision, and `planes` is used up."""
    for (top, left, bottom, right), bounds in g.tiles:
        for plane in planes:
            synthesise(plane[top:bottom, left:right], bounds)
    if p.colour:
        from_components(planes)
    for plane, precision, signed in zip(planes, p.precisions, p.signed, strict=True):
        middle = 1 << precision - 1
        if not signed:
            plane += middle
        plane &= 2 * middle - 1
        if dtype.kind == "i":
            plane ^= middle
            plane -= middle
    frame = planes[0] if len(planes) == 1 else planes.transpose(1, 2, 0)
    return np.ascontiguousarray(frame.astype(dtype))
