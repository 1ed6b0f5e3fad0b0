"""Instances as plain DICOM files: nobody is ever locked in."""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dcmpress.storage.archive import Archive
from dcmpress.storage.catalog.search import Located
from dcmpress.storage.elements import Buffer
from dcmpress.storage.errors import DamagedError, MalformedError
from dcmpress.storage.join import InstanceReader
from dcmpress.storage.part10 import FileMeta, part10_header, read_part10
from dcmpress.storage.retrieve import Failed

_LONGEST_NAME = 100
"""Characters of a UID that go into a file name; the standard allows 64."""


@dataclass(frozen=True)
class Exported:
    """One instance written, or why it was not."""

    path: Path
    size: int
    """Of the data set, in bytes."""
    problem: str = ""
    existed: bool = False
    """The file was there already, with these very bytes."""


def export(archive: Archive, located: Iterable[Located], folder: Path) -> Iterator[Exported]:
    """Write instances to `folder/STUDY/SERIES/INSTANCE.dcm`; yield each when it is on the disk.

    A file that already holds the data set is left as it is, so an export can be interrupted and repeated.
    An older version of an instance gets its SHA-256's first digits in its name.
    """
    wanted = []
    for item in located:
        path = _path(folder, item)
        if _holds(path, item.size, item.sha256):
            yield Exported(path, item.size, existed=True)
        else:
            wanted.append(item)
    for result in archive.retrieve(wanted, lambda item: item.transfer_syntax_uid):
        path = _path(folder, result.located)
        if isinstance(result, Failed):
            yield Exported(path, 0, str(result.error))
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        item = result.located
        meta = FileMeta(
            item.sop_class_uid, item.sop_instance_uid, item.transfer_syntax_uid, source_ae=item.calling_ae
        )
        _write(path, meta, result.pieces())
        yield Exported(path, result.size)


def extract(blob: Path, folder: Path) -> Iterator[Exported]:
    """Write every instance of one blob file to `folder`; needs the blob alone.

    Raises
    ------
    BlobFormatError
        If it is not a blob, or its index is damaged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    used: set[Path] = set()
    with InstanceReader(blob) as reader:
        for number, instance in enumerate(reader.blob.index.instances):
            path = folder / f"{_file_name(instance.sop_instance_uid)}.dcm"
            if path in used:
                path = path.with_suffix(f".{instance.sha256[:8]}.dcm")
            used.add(path)
            meta = FileMeta(
                instance.sop_class_uid,
                instance.sop_instance_uid,
                instance.transfer_syntax_uid,
                source_ae=instance.calling_ae,
            )
            # Written piece by piece, and given its name only when the bytes are confirmed.
            digest = hashlib.sha256()

            def pieces(number: int = number, digest: "hashlib._Hash" = digest) -> Iterator[Buffer]:
                for piece in reader.pieces(number):
                    digest.update(piece)
                    yield piece

            try:
                part = _write_part(path, meta, pieces())
                if digest.hexdigest() != instance.sha256:
                    part.unlink()
                    raise DamagedError("is not what was received")
                part.rename(path)
                yield Exported(path, instance.size)
            except DamagedError as error:
                yield Exported(path, 0, str(error))


def _path(folder: Path, item: Located) -> Path:
    name = _file_name(item.sop_instance_uid)
    version = "" if item.current else f".{item.sha256.hex()[:8]}"
    study, series = _file_name(item.study_instance_uid), _file_name(item.series_instance_uid)
    return folder / study / series / f"{name}{version}.dcm"


def _file_name(uid: str) -> str:
    """Return a UID as a file name; what a sender calls a UID may be anything."""
    name = re.sub(r"[^0-9A-Za-z.]", "_", uid).strip(".")[:_LONGEST_NAME]
    if name == uid and name:
        return name
    return f"{name}_{hashlib.sha256(uid.encode('utf-8', 'replace')).hexdigest()[:8]}"


def _holds(path: Path, size: int, sha256: bytes) -> bool:
    """Tell whether a file exists and its data set is this one."""
    try:
        with path.open("rb") as file:
            _, offset = read_part10(file.read(4096))
            if os.fstat(file.fileno()).st_size != offset + size:
                return False
            file.seek(offset)
            digest = hashlib.sha256()
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except (OSError, MalformedError):
        return False
    return digest.digest() == sha256


def _write(path: Path, meta: FileMeta, pieces: Iterable[Buffer]) -> None:
    _write_part(path, meta, pieces).rename(path)


def _write_part(path: Path, meta: FileMeta, pieces: Iterable[Buffer]) -> Path:
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            file.write(part10_header(meta))
            for piece in pieces:
                file.write(piece)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return part
