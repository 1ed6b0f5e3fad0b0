"""DICOM files into the archive, without a network; can be interrupted and repeated."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from dcmpress.storage.archive import LARGEST_LEADING, WANTED, Archive
from dcmpress.storage.elements import EXPLICIT_VR_LITTLE_ENDIAN
from dcmpress.storage.errors import ConflictError, DataSetError, MalformedError
from dcmpress.storage.leading import read_leading
from dcmpress.storage.part10 import FileMeta, guess_transfer_syntax, read_part10
from dcmpress.storage.spool import LEADING_WINDOW, Sender

MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"

LONGEST_UID = 128
"""Characters. PS3.5 allows 64; some senders write more."""
LONGEST_AE = 16

_LONGEST_FILE_META = 1 << 20
"""Bytes of a file in which group 0002 must end; a hundred times what the standard has in it."""

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
    # Read, not mapped: a scratched disc is an error, not the end of the process.
    with path.open("rb") as file:
        try:
            head = file.read(_LONGEST_FILE_META)
            meta, offset = read_part10(head)
        except MalformedError:
            return Imported(path, size, "not DICOM")
        if len(head) == _LONGEST_FILE_META and head[offset : offset + 2] in (b"\2\0", b"\2", b""):
            # What follows would be taken for the data set.
            longest = _LONGEST_FILE_META >> 20
            return Imported(path, size, "refused", f"its file meta information is longer than {longest} MiB")
        meta, note = _identified(meta, file, offset)
        if meta is None:
            return Imported(path, size, "refused", note)
        if meta.sop_class_uid == MEDIA_STORAGE_DIRECTORY:
            return Imported(path, size, "directory")
        if archive.keeps(meta.sop_instance_uid, size - offset, lambda: _digest(file, offset)):
            return Imported(path, size, "duplicate", note)
        incoming = archive.begin(meta, sender)
        try:
            file.seek(offset)
            while chunk := file.read(_CHUNK):
                incoming.write(chunk)
            receipt = archive.commit(incoming)
        except (ConflictError, DataSetError) as error:
            incoming.abandon()
            return Imported(path, size, "refused", str(error))
        except BaseException:
            incoming.abandon()
            raise
    return Imported(path, size, receipt.outcome, note or receipt.problem)


def _identified(meta: FileMeta | None, file: BufferedReader, offset: int) -> tuple[FileMeta | None, str]:
    """Return the file meta with the UIDs that the data set itself names, and what was odd."""
    file.seek(offset)
    data = file.read(LEADING_WINDOW)
    syntax = meta.transfer_syntax_uid if meta else guess_transfer_syntax(data) or EXPLICIT_VR_LITTLE_ENDIAN
    leading = read_leading(data, syntax, WANTED)
    if leading.problem and len(data) == LEADING_WINDOW:
        data += file.read(LARGEST_LEADING - len(data))
        leading = read_leading(data, syntax, WANTED)
    named = meta or FileMeta("", "", syntax)
    sop_class = leading.sop_class_uid or named.sop_class_uid
    sop_instance = leading.sop_instance_uid or named.sop_instance_uid
    if not sop_instance or not sop_class:
        return None, "neither the file meta information nor the data set names its SOP class and instance"
    if max(len(sop_class), len(sop_instance), len(syntax)) > LONGEST_UID:
        return None, f"a UID of more than {LONGEST_UID} characters"
    note = ""
    if meta is not None and (sop_class, sop_instance) != (meta.sop_class_uid, meta.sop_instance_uid):
        note = "file meta information and data set name different UIDs; the data set's count"
    source, receiving = named.source_ae[:LONGEST_AE], named.receiving_ae[:LONGEST_AE]
    return FileMeta(sop_class, sop_instance, syntax, source, "", receiving), note


def _digest(file: BufferedReader, offset: int) -> bytes:
    file.seek(offset)
    return hashlib.file_digest(file, "sha256").digest()
