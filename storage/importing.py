"""DICOM files into the archive, without a network; can be interrupted and repeated."""

import hashlib
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dcmpress.storage.archive import WANTED, Archive
from dcmpress.storage.elements import EXPLICIT_VR_LITTLE_ENDIAN
from dcmpress.storage.errors import ConflictError, DataSetError, MalformedError
from dcmpress.storage.leading import read_leading
from dcmpress.storage.part10 import FileMeta, guess_transfer_syntax, read_part10
from dcmpress.storage.spool import Sender

MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Imported:
    """One file, and what became of it."""

    path: Path
    size: int
    """Of the file, in bytes."""
    outcome: str
    """A value of `Outcome`, "not DICOM", "directory" (a DICOMDIR) or "refused"."""
    problem: str = ""


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the regular files below a folder (or the file itself), in a fixed order."""
    if folder.is_file():
        yield folder
        return
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            yield path


def import_file(archive: Archive, path: Path, sender: Sender) -> Imported:
    """Take one file into the archive.

    Raises
    ------
    NoSpaceError
        If the disk has no room; try again when it has.
    OSError
        If the file cannot be read.
    """
    size = path.stat().st_size
    if size < 8:
        return Imported(path, size, "not DICOM")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        try:
            meta, offset = read_part10(mapped[: 1 << 16])
        except MalformedError:
            return Imported(path, size, "not DICOM")
        with memoryview(mapped) as whole, whole[offset:] as data:
            meta, note = _identified(meta, data)
            if meta is None:
                return Imported(path, size, "refused", note)
            if meta.sop_class_uid == MEDIA_STORAGE_DIRECTORY:
                return Imported(path, size, "directory")
            if _is_kept(archive, meta, data):
                return Imported(path, size, "duplicate", note)
            incoming = archive.begin(meta, sender)
            try:
                for at in range(0, len(data), _CHUNK):
                    incoming.write(data[at : at + _CHUNK])
                receipt = archive.commit(incoming)
            except (ConflictError, DataSetError) as error:
                incoming.abandon()
                return Imported(path, size, "refused", str(error))
            except BaseException:
                incoming.abandon()
                raise
    return Imported(path, size, receipt.outcome, note or receipt.problem)


def _identified(meta: FileMeta | None, data: memoryview) -> tuple[FileMeta | None, str]:
    """Return the file meta with the UIDs that the data set itself names, and what was odd."""
    syntax = meta.transfer_syntax_uid if meta else guess_transfer_syntax(data) or EXPLICIT_VR_LITTLE_ENDIAN
    leading = read_leading(data[: 1 << 26], syntax, WANTED)
    named = meta or FileMeta("", "", syntax)
    sop_class = leading.sop_class_uid or named.sop_class_uid
    sop_instance = leading.sop_instance_uid or named.sop_instance_uid
    if not sop_instance or not sop_class:
        return None, "neither the file meta information nor the data set names its SOP class and instance"
    note = ""
    if meta is not None and (sop_class, sop_instance) != (meta.sop_class_uid, meta.sop_instance_uid):
        note = "file meta information and data set name different UIDs; the data set's count"
    return FileMeta(sop_class, sop_instance, syntax, named.source_ae, "", named.receiving_ae), note


def _is_kept(archive: Archive, meta: FileMeta, data: memoryview) -> bool:
    """Tell whether these very bytes are in the archive, without writing them once more."""
    versions = archive.catalog.versions(meta.sop_instance_uid)
    sizes = {version.size for version in versions if not version.damaged}
    if len(data) not in sizes:
        return False
    digest = hashlib.sha256(data).digest()
    return any(version.sha256 == digest and not version.damaged for version in versions)
