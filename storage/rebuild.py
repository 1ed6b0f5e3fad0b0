"""The catalog, made anew from blobs and spool alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dcmpress.storage.archive import LARGEST_LEADING, WANTED, Archive
from dcmpress.storage.blob_index import BlobInstance
from dcmpress.storage.catalog.settling import BlobFacts, requested_codec
from dcmpress.storage.errors import DamagedError
from dcmpress.storage.join import InstanceReader
from dcmpress.storage.leading import read_leading
from dcmpress.storage.received import Received


@dataclass(frozen=True)
class Rebuilt:
    """One blob entered, or why it was not."""

    blob: str
    instances: int
    problem: str = ""


def rebuild_blobs(archive: Archive) -> Iterator[Rebuilt]:
    """Enter every blob that the catalog does not know; yield each when it is done.

    Blobs are entered oldest first, so that of several versions of an instance the newest is served. The
    frames are not decoded: `verify` does that.
    """
    blobs = []
    for name in archive.blobs.names():
        try:
            with InstanceReader(archive.blobs.path(name)) as reader:
                received = [instance.received_at for instance in reader.blob.index.instances]
            blobs.append((min(received, default=""), name))
        except (DamagedError, OSError) as error:
            yield Rebuilt(name, 0, str(error))
    for _, name in sorted(blobs):
        try:
            yield Rebuilt(name, adopt(archive, name, archive.blobs.path(name)))
        except (DamagedError, OSError, ValueError) as error:
            yield Rebuilt(name, 0, str(error))


def adopt(archive: Archive, name: str, path: Path) -> int:
    """Enter the blob `name`, whose file lies in its place, with all its instances; return how many."""
    with InstanceReader(path) as reader:
        index = reader.blob.index
        codec = index.main_codec()
        main = next((segment for segment in index.segments if segment.codec == codec), None)
        facts = BlobFacts(
            size=reader.blob.size,
            raw_size=sum(instance.size for instance in index.instances),
            n_instances=len(index.instances),
            codec=codec,
            format_version=main.format_version if main else 1,
            parameters=main.parameters if main else {},
            requested=requested_codec(
                codec,
                main.parameters if main else {},
                pixel_exact=any(instance.received for instance in index.instances),
            ),
        )
        instances = []
        for number, instance in enumerate(index.instances):
            leading = read_leading(
                reader.beginning(number, LARGEST_LEADING), instance.transfer_syntax_uid, WANTED
            )
            instances.append((_received(instance), leading.attributes, number))
        archive.catalog.settling.adopt_blob(name, facts, instances, datetime.fromisoformat(index.created_at))
        return len(instances)


def _received(instance: BlobInstance) -> Received:
    return Received(
        sop_class_uid=instance.sop_class_uid,
        sop_instance_uid=instance.sop_instance_uid,
        transfer_syntax_uid=instance.transfer_syntax_uid,
        size=instance.size,
        sha256=bytes.fromhex(instance.sha256),
        spool_name="",
        received_at=datetime.fromisoformat(instance.received_at),
        calling_ae=instance.calling_ae,
        called_ae=instance.called_ae,
        remote_host=instance.remote_host,
        came_as=instance.received.form if instance.received else None,
    )
