"""Is everything that the node keeps still what it received? Reads and decodes all of it to find out."""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from dcmpress.storage.archive import Archive
from dcmpress.storage.catalog.search import Located
from dcmpress.storage.errors import DamagedError, MissingError
from dcmpress.storage.join import InstanceReader
from dcmpress.storage.spool import SpoolEntry

_ROTTEN = (errno.EIO, errno.EBADMSG, errno.EUCLEAN)
"""What a disk says of bytes that it cannot give back. Anything else (permissions, say) is not theirs."""


@dataclass(frozen=True)
class Problem:
    """Something that does not hold."""

    place: str
    """Blob or spool file."""
    sop_instance_uid: str
    """"" if the whole file is concerned."""
    what: str
    number: int | None = None
    """Of the instance in its blob; None if the whole file is concerned."""


@dataclass
class Verified:
    """One blob or spool file, checked."""

    place: str
    instances: int
    size: int
    """Of the file, in bytes."""
    problems: list[Problem]
    whole: bool = False
    """Nothing in the file holds."""


def verify(archive: Archive, *, mark: bool = True) -> Iterator[Verified]:
    """Check every blob and every spool file; yield each when it is done.

    With `mark` the catalog notes which instances are damaged: they are refused on retrieval until the same
    bytes are sent again, or a file is restored and found sound here.
    """
    tasks: list[Callable[[], Verified]] = []
    names = list(archive.blobs.names())
    tasks += [lambda name=name: _verify_blob(archive, name) for name in names]  # type: ignore[misc]
    tasks += [lambda name=name: _verify_spooled(archive, name) for name in archive.spool.names()]  # type: ignore[misc]
    present = set(names)
    missing = [name for name in archive.catalog.stored_blob_names() if name not in present]
    tasks += [lambda name=name: _missing_blob(archive, name) for name in missing]  # type: ignore[misc]
    pool = ThreadPoolExecutor(os.cpu_count() or 1)
    try:
        for verified in pool.map(lambda task: task(), tasks):
            if mark:
                _mark(archive, verified)
            yield verified
    finally:  # who has seen enough does not wait for the rest
        pool.shutdown(wait=True, cancel_futures=True)


def _verify_blob(archive: Archive, name: str) -> Verified:
    try:
        path = archive.blobs.path(name)
        size = path.stat().st_size
    except (MissingError, FileNotFoundError):
        return Verified(
            name, 0, 0, []
        )  # removed since its folder was listed; the catalog tells if it is missed
    except OSError as error:
        return _unread(name, error)
    listed = {item.blob_index: item for item in archive.catalog.in_blob(name)}
    try:
        with InstanceReader(path) as reader:
            problems = _verify_instances(name, reader, listed)
            return Verified(name, len(reader.blob.index.instances), size, problems)
    except FileNotFoundError:
        return Verified(name, 0, 0, [])  # nothing needs it any more
    except (DamagedError, OSError) as error:
        if not _is_damage(error):
            return _unread(name, error)
        return Verified(name, len(listed), size, [Problem(name, "", str(error))], whole=True)


def _is_damage(error: DamagedError | OSError) -> bool:
    return not isinstance(error, OSError) or error.errno in _ROTTEN


def _unread(place: str, error: Exception) -> Verified:
    """Report what could not be checked, which says nothing about it: no instance counts, and none is marked."""
    return Verified(place, 0, 0, [Problem(place, "", f"not checked: {error}")])


def _verify_instances(name: str, reader: InstanceReader, listed: dict[int | None, Located]) -> list[Problem]:
    problems = []
    for number in range(reader.blob.n_sections):
        try:
            reader.blob.section(number)
        except (DamagedError, OSError) as error:
            if not _is_damage(error):
                raise
            problems.append(Problem(name, "", str(error)))
    for number, instance in enumerate(reader.blob.index.instances):
        uid = instance.sop_instance_uid
        digest = hashlib.sha256()
        try:
            for piece in reader.pieces(number):
                digest.update(piece)
            if digest.hexdigest() != instance.sha256:
                problems.append(Problem(name, uid, "is not what was received", number))
        except (DamagedError, OSError) as error:
            if not _is_damage(error):
                raise
            problems.append(Problem(name, uid, str(error), number))
        row = listed.get(number)
        came = instance.received.form if instance.received else None
        if row is not None and (row.sha256.hex(), row.received) != (instance.sha256, came):
            problems.append(Problem(name, uid, "the catalog expects another data set here", number))
    for place, row in listed.items():
        if place is None or place >= len(reader.blob.index.instances):
            problems.append(
                Problem(name, row.sop_instance_uid, "the catalog expects it here, but it is not", place)
            )
    return problems


def _verify_spooled(archive: Archive, name: str) -> Verified:
    place = f"spool/{name}"
    try:
        entry = archive.spool.entry(name)
        intact = _spooled_digest(archive, entry) == entry.sha256
    except MissingError:
        return Verified(place, 0, 0, [])  # compressed and removed meanwhile
    except (DamagedError, OSError) as error:
        if not _is_damage(error):
            return _unread(place, error)
        return Verified(place, 1, 0, [Problem(place, "", str(error))], whole=True)
    uid = entry.meta.sop_instance_uid
    problems = [] if intact else [Problem(place, uid, "is not what was received")]
    return Verified(place, 1, entry.size, problems, whole=not intact)


def _spooled_digest(archive: Archive, entry: SpoolEntry) -> bytes:
    digest = hashlib.sha256()
    try:
        with archive.spool.path(entry.name).open("rb") as file:
            file.seek(entry.offset)
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except FileNotFoundError:
        raise MissingError(entry.name) from None
    return digest.digest()


def _missing_blob(archive: Archive, name: str) -> Verified:
    listed = archive.catalog.in_blob(name)
    try:
        archive.blobs.path(name)
    except MissingError:
        return Verified(name, len(listed), 0, [Problem(name, "", "the file is gone")], whole=True)
    return _verify_blob(archive, name)  # written since its folder was listed


def _mark(archive: Archive, verified: Verified) -> None:
    """Bring the catalog's marks in line with what was found, in both directions."""
    spooled = verified.place.startswith("spool/")
    if spooled:
        rows = archive.catalog.in_spool(verified.place.removeprefix("spool/"))
    else:
        rows = archive.catalog.in_blob(verified.place)
    numbers = {problem.number for problem in verified.problems} - {None}
    damaged = [row.instance_pk for row in rows if verified.whole or row.blob_index in numbers]
    if damaged:
        archive.catalog.settling.mark_damaged(damaged, verified.problems[0].what[:200])
    if verified.instances:  # 0: the file was gone before it could be read
        sound = {row.instance_pk for row in rows if row.damaged} - set(damaged)
        archive.catalog.settling.mark_sound(sound)
