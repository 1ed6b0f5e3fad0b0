"""One instance of a compression job."""

from dataclasses import dataclass
from pathlib import Path

from dcmpress.storage.encapsulated import Encapsulated
from dcmpress.storage.errors import DamagedError
from dcmpress.storage.grouping import FramePosition
from dcmpress.storage.split import PixelFormat, Split
from dcmpress.storage.spool import SpoolEntry


@dataclass
class Source:
    """An instance whose bytes stay in its file: a group may have more of them than memory."""

    entry: SpoolEntry
    path: Path
    split: Split | None
    """Where its frames are; None if it is kept whole."""
    positions: list[FramePosition]
    """Of each frame, or of each compressed image; at least one."""
    encapsulated: Encapsulated | None = None
    """Its compressed images, if there are any."""
    image_format: PixelFormat | None = None
    """What its attributes say of the samples of these images."""

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes of the data set."""
        with self.path.open("rb") as file:
            file.seek(self.entry.offset + start)
            data = file.read(stop - start)
        if len(data) != stop - start:
            raise DamagedError(f"the spool file {self.entry.name} has become shorter")
        return data
