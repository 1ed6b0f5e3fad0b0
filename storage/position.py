"""Where an instance's frames stand in their series, read from its elements."""

from collections.abc import Mapping
from math import isfinite

from dcmpress.storage.elements import Buffer, Element
from dcmpress.storage.grouping import FramePosition, slice_location

INSTANCE_NUMBER = 0x00200013
IMAGE_POSITION_PATIENT = 0x00200032
IMAGE_ORIENTATION_PATIENT = 0x00200037
SLICE_LOCATION = 0x00201041
_TIMES = (
    0x00200100,  # Temporal Position Identifier
    0x00181060,  # Trigger Time
    0x00200012,  # Acquisition Number
)


def frame_positions(
    data: Buffer, elements: Mapping[int, Element], n_frames: int, arrival: int
) -> list[FramePosition]:
    """Return the position of each frame of an instance; what is missing or unreadable stays unknown."""

    def numbers(tag: int) -> list[float]:
        element = elements.get(tag)
        if element is None or element.end - element.value > 256:
            return []
        try:
            values = [float(x) for x in bytes(data[element.value : element.end]).strip(b" \0").split(b"\\")]
        except ValueError:
            return []
        return values if all(map(isfinite, values)) else []

    location = slice_location(numbers(IMAGE_ORIENTATION_PATIENT), numbers(IMAGE_POSITION_PATIENT))
    if location is None:
        location = next(iter(numbers(SLICE_LOCATION)), None)
    time = next((values[0] for tag in _TIMES if (values := numbers(tag))), None)
    number = next(iter(numbers(INSTANCE_NUMBER)), None)
    whole = int(number) if number is not None and abs(number) < 1e9 else None
    return [FramePosition(location, time, whole, frame, arrival) for frame in range(n_frames)]
