"""Blobs on their way from node to node: which may go as they are, and how one that comes is taken in.

A blob that comes is believed in nothing: every instance in it is decoded, by a process of its own, and compared
with its SHA-256 before anything of it counts. Then the file itself is kept, if nothing in it is known here yet;
else its data sets go the way of any that are received, under the policy for conflicts.
"""

import hashlib
import os
import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from dcmpress.storage.archive import Archive
from dcmpress.storage.blob_index import BlobInstance
from dcmpress.storage.catalog.search import Located
from dcmpress.storage.confirmers import Confirmer
from dcmpress.storage.elements import Buffer
from dcmpress.storage.errors import DamagedError, MalformedError, MissingError
from dcmpress.storage.join import InstanceReader
from dcmpress.storage.part10 import FileMeta
from dcmpress.storage.rebuild import adopt
from dcmpress.storage.received import Form
from dcmpress.storage.scratch import scratch_folder
from dcmpress.storage.spool import Sender

PATIENCE = 7200.0
"""Seconds that decoding a blob may take; then it is refused."""

_CHUNK = 1 << 20

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
        self._file = self._path.open("xb", buffering=0)
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
        view = memoryview(piece)
        while view:
            try:
                view = view[self._file.write(view) :]
            except OSError as error:
                self._archive.spool.give_way(error)
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
        os.fsync(self._file.fileno())
        with scratch_folder(self._archive.temporary, "exchange", self._name) as scratch:
            return self._take(sender, scratch)

    def _take(self, sender: Sender, scratch: Path) -> Taken:
        archive = self._archive
        try:
            with archive.confirmers.lent() as confirmer:
                ordinary = confirmer.confirm(self._path, PATIENCE)
                with InstanceReader(self._path) as reader:
                    index = reader.blob.index.instances
                known = any(archive.catalog.versions(one.sop_instance_uid) for one in index)
                raw_size = sum(one.size for one in index)
                adopted = ordinary and not known and archive.settings.on_conflict == "keep-both"
                if not adopted:
                    _receive_each(archive, confirmer, index, sender, scratch / "data set")
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


def _sha256(form: Form) -> bytes:
    return form.sha256


def _receive_each(
    archive: Archive, confirmer: Confirmer, index: Sequence[BlobInstance], sender: Sender, scratch: Path
) -> None:
    """Receive the data sets of a confirmed blob one by one, but for those whose originals are kept here."""
    for number, instance in enumerate(index):
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
            confirmer.unpack(number, scratch, PATIENCE)
            digest = hashlib.sha256()
            with scratch.open("rb") as file:
                while piece := file.read(_CHUNK):
                    digest.update(piece)
                    incoming.write(piece)
            if digest.hexdigest() != instance.sha256:
                raise DamagedError(f"{instance.sop_instance_uid} changed on its way through a scratch file")
            archive.commit(incoming)
        except BaseException:
            incoming.abandon()
            raise
        finally:
            scratch.unlink(missing_ok=True)
