"""Blobs on their way from node to node: which may go as they are, and how one that comes is taken in.

A blob that comes is believed in nothing: every instance in it is decoded and compared with its SHA-256 before
anything of it counts. Then the file itself is kept, if nothing in it is known here yet; else its data sets go
the way of any that are received, under the policy for conflicts.
"""

import errno
import hashlib
import os
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dcmpress.storage.archive import LARGEST_LEADING, WANTED, Archive
from dcmpress.storage.catalog.search import Located
from dcmpress.storage.elements import Buffer
from dcmpress.storage.errors import DamagedError, MalformedError, MissingError, NoSpaceError
from dcmpress.storage.importing import LONGEST_UID
from dcmpress.storage.join import InstanceReader
from dcmpress.storage.leading import read_leading
from dcmpress.storage.part10 import FileMeta
from dcmpress.storage.rebuild import adopt
from dcmpress.storage.received import Form
from dcmpress.storage.spool import Sender

_SPACE_STEP = 64 << 20
"""Bytes of a blob after which free space is looked at again."""


@dataclass(frozen=True)
class WholeBlob:
    """A blob of which every instance is wanted."""

    name: str
    path: Path
    size: int
    """Of the file, in bytes."""
    instances: tuple[Located, ...]

    @property
    def raw_size(self) -> int:
        """Bytes of its data sets."""
        return sum(item.size for item in self.instances)


def whole_blobs(archive: Archive, located: Iterable[Located]) -> list[WholeBlob]:
    """Return the blobs whose instances are all among `located`, if they are smaller than those."""
    by_blob: dict[str, dict[int, Located]] = defaultdict(dict)
    for item in located:
        if item.blob_name is not None and item.blob_index is not None and not item.damaged:
            by_blob[item.blob_name][item.blob_index] = item
    found = []
    for name, wanted in by_blob.items():
        try:
            path = archive.blobs.path(name)
            with InstanceReader(path) as reader:
                index = reader.blob.index.instances
                digests = [bytes.fromhex(instance.sha256) for instance in index]
                size = reader.blob.size
        except (DamagedError, MissingError, OSError):
            continue  # sending its instances one by one will say what is wrong
        if sorted(wanted) == list(range(len(digests))) and all(
            wanted[number].sha256 == digest for number, digest in enumerate(digests)
        ):
            blob = WholeBlob(name, path, size, tuple(wanted[number] for number in sorted(wanted)))
            if size < blob.raw_size:
                found.append(blob)
    return found


@dataclass(frozen=True)
class Taken:
    """What became of a blob that came."""

    instances: int
    raw_size: int
    """Bytes of the data sets in it."""
    adopted: bool
    """The file is kept as it came; else its data sets are in the spool."""


class IncomingBlob:
    """A blob on its way in: `write` its bytes, then `commit`; `close` in any case."""

    def __init__(self, archive: Archive) -> None:
        archive.spool.check_space()
        self._archive = archive
        self._name = uuid.uuid4().hex
        self._path = archive.blobs.staged(self._name)
        self._file = self._path.open("xb")
        self.size = 0
        """Bytes written so far."""

    def write(self, piece: Buffer) -> None:
        """Add bytes.

        Raises
        ------
        NoSpaceError
            If free space is under the reserve, or the disk is full.
        """
        before = self.size
        try:
            self._file.write(piece)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpaceError(str(error)) from error
            raise
        self.size += len(piece)
        if before // _SPACE_STEP != self.size // _SPACE_STEP:
            self._archive.spool.check_space()

    def commit(self, sender: Sender) -> Taken:
        """Decode and confirm everything in it, and make it safe. When this returns it survives a power cut.

        Raises
        ------
        MalformedError
            If it is no blob, or something in it is not what its checksum says.
        ConflictError, MismatchError, NoSpaceError
            As for a data set that is received by itself; those before it may have been kept.
        StorageError, OSError
            Whatever else goes wrong.
        """
        self._file.flush()
        os.fsync(self._file.fileno())
        try:
            with InstanceReader(self._path) as reader:
                ordinary = _confirm(reader)
                index = reader.blob.index.instances
                known = any(self._archive.catalog.versions(one.sop_instance_uid) for one in index)
                raw_size = sum(one.size for one in index)
                adopted = ordinary and not known and self._archive.settings.on_conflict == "keep-both"
                if not adopted:
                    _receive_each(self._archive, reader, sender)
        except DamagedError as error:
            raise MalformedError(f"the blob does not hold: {error}") from error
        if adopted:
            self._adopt()
        return Taken(len(index), raw_size, adopted)

    def _adopt(self) -> None:
        """Keep the file: announced, put in its place, entered in one durable transaction."""
        blob_pk = self._archive.catalog.settling.begin_blob(self._name)
        try:
            self._archive.blobs.put(self._name)
            adopt(self._archive, self._name, self._archive.blobs.path(self._name))
        except BaseException:
            # A commit whose answer got lost has happened all the same: such a blob stays.
            if not self._archive.catalog.in_blob(self._name):
                self._archive.blobs.remove(self._name)
                self._archive.catalog.settling.abandon_blob(blob_pk)
            raise
        self._archive.blobs.path(self._name)  # raises MissingError rather than acknowledge what is gone

    def close(self) -> None:
        """Let go of what was not kept."""
        self._file.close()
        self._path.unlink(missing_ok=True)


def _confirm(reader: InstanceReader) -> bool:
    """Check every byte of a blob; tell whether each of its data sets is one that nothing speaks against.

    Raises
    ------
    DamagedError
        If a checksum does not hold.
    """
    ordinary = True
    for number in range(reader.blob.n_sections):
        reader.blob.section(number)
    for number, instance in enumerate(reader.blob.index.instances):
        if max(len(instance.sop_class_uid), len(instance.sop_instance_uid)) > LONGEST_UID:
            raise DamagedError(f"a UID of more than {LONGEST_UID} characters")
        digest = hashlib.sha256()
        size = 0
        for piece in _pieces(reader, number):
            digest.update(piece)
            size += memoryview(piece).nbytes
            if size > instance.size:
                break
        if size != instance.size or digest.hexdigest() != instance.sha256:
            raise DamagedError(f"{instance.sop_instance_uid} is not what was received")
        leading = read_leading(
            reader.beginning(number, LARGEST_LEADING), instance.transfer_syntax_uid, WANTED
        )
        ordinary &= (leading.sop_class_uid, leading.sop_instance_uid, leading.problem) == (
            instance.sop_class_uid,
            instance.sop_instance_uid,
            "",
        )
    return ordinary


def _pieces(reader: InstanceReader, number: int) -> Iterator[Buffer]:
    """Yield the bytes of an instance; its neighbours share the segment, which is decoded once for all."""
    segments = reader.segments_of(number)
    if len(segments) == 1:
        reader.load(segments[0])
    yield from reader.pieces(number)


def _sha256(form: Form) -> bytes:
    return form.sha256


def _receive_each(archive: Archive, reader: InstanceReader, sender: Sender) -> None:
    """Receive the data sets of a confirmed blob one by one, but for those whose originals are kept here."""
    for number, instance in enumerate(reader.blob.index.instances):
        came = instance.received.form if instance.received else None
        if came and archive.keeps(instance.sop_instance_uid, came.size, partial(_sha256, came)):
            continue
        meta = FileMeta(
            instance.sop_class_uid,
            instance.sop_instance_uid,
            instance.transfer_syntax_uid,
            source_ae=sender.calling_ae,
            receiving_ae=sender.called_ae,
        )
        incoming = archive.begin(meta, sender)
        try:
            for piece in _pieces(reader, number):
                incoming.write(piece)
            archive.commit(incoming)
        except BaseException:
            incoming.abandon()
            raise
