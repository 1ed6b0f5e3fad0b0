"""One instance of a compression job."""

import hashlib
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from dcmpress.storage.encapsulated import Encapsulated
from dcmpress.storage.errors import DamagedError
from dcmpress.storage.grouping import FramePosition
from dcmpress.storage.received import Form
from dcmpress.storage.split import PixelFormat, Split
from dcmpress.storage.spool import SpoolEntry


def digest_of(path: Path, offset: int) -> bytes:
    """Return the SHA-256 of a file from `offset` on."""
    with path.open("rb") as file:
        file.seek(offset)
        return hashlib.file_digest(file, "sha256").digest()


@contextmanager
def mapped(entry: SpoolEntry, path: Path) -> Iterator[memoryview]:
    """Lend the data set of a spool file, which must not be empty. Read it first: a bad sector is a signal here."""
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole,
        memoryview(whole)[entry.offset : entry.offset + entry.size] as data,
    ):
        yield data


def received_form(entry: SpoolEntry) -> Form:
    """Return the data set of a spool file."""
    return Form(entry.meta.transfer_syntax_uid, entry.size, entry.sha256)


@dataclass(frozen=True)
class Native:
    """A data set that is kept in place of the received one, in a file of no name."""

    file: IO[bytes]
    offset: int
    form: Form


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
    native: Native | None = None
    """What is kept in its place, if that is another data set (`pixel_exact`)."""

    @property
    def kept(self) -> Form:
        """The data set that is kept."""
        return self.native.form if self.native else received_form(self.entry)

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes of the data set that is kept."""
        if self.native is not None:
            return os.pread(self.native.file.fileno(), stop - start, self.native.offset + start)
        with self.path.open("rb") as file:
            file.seek(self.entry.offset + start)
            data = file.read(stop - start)
        if len(data) != stop - start:
            raise DamagedError(f"the spool file {self.entry.name} has become shorter")
        return data
