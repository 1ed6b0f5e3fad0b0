"""The process in which a blob of another node is decoded and confirmed: `python -m dcmpress.storage.confirming`.

A request is a line of JSON on standard input, and so is the answer on standard output; see `confirmers.py`.
"""

import errno
import hashlib
import json
import os
import select
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dcmpress.storage.archive import LARGEST_LEADING, WANTED
from dcmpress.storage.confirmers import IDLE_SECONDS
from dcmpress.storage.elements import Buffer
from dcmpress.storage.errors import DamagedError
from dcmpress.storage.importing import LONGEST_AE, LONGEST_UID
from dcmpress.storage.join import InstanceReader
from dcmpress.storage.leading import read_leading
from dcmpress.storage.workers import begin_worker

NICE = 5
"""Gives way to associations, but not to compression: a sender waits."""


def main() -> None:
    """Answer until there are no more requests."""
    begin_worker(os.getppid(), NICE)
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what a library prints is no answer
    reader: InstanceReader | None = None
    while select.select([0], [], [], IDLE_SECONDS)[0]:
        line = sys.stdin.buffer.readline()
        if not line:
            break
        request = json.loads(line)
        if reader is not None and "blob" in request:
            reader.close()
            reader = None
        answer: dict[str, Any]
        try:
            if reader is None:
                reader = InstanceReader(Path(request["blob"]))
                answer = {"ordinary": confirm(reader)}
            else:
                _write(reader, request["number"], Path(request["target"]))
                answer = {}
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            answer = {"full" if full else "damaged": str(error)}
        except Exception as error:  # whatever it is, it was found in this blob
            answer = {"damaged": str(error) if isinstance(error, DamagedError) else repr(error)}
        answers.write(json.dumps(answer).encode() + b"\n")


def confirm(reader: InstanceReader) -> bool:
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
        uids = (instance.sop_class_uid, instance.sop_instance_uid, instance.transfer_syntax_uid)
        if max(map(len, uids)) > LONGEST_UID:
            raise DamagedError(f"a UID of more than {LONGEST_UID} characters")
        if max(len(instance.calling_ae), len(instance.called_ae)) > LONGEST_AE:
            raise DamagedError(f"an AE title of more than {LONGEST_AE} characters")
        for _ in _confirmed(reader, number):
            pass
        leading = read_leading(
            reader.beginning(number, LARGEST_LEADING), instance.transfer_syntax_uid, WANTED
        )
        ordinary &= (leading.sop_class_uid, leading.sop_instance_uid, leading.problem) == (
            instance.sop_class_uid,
            instance.sop_instance_uid,
            "",
        )
    return ordinary


def _write(reader: InstanceReader, number: int, target: Path) -> None:
    with target.open("xb") as file:
        for piece in _confirmed(reader, number):
            file.write(piece)


def _confirmed(reader: InstanceReader, number: int) -> Iterator[Buffer]:
    """Yield the bytes of an instance; at the end raise DamagedError if they are not what was received.

    Its neighbours share the segment, which is decoded once for all.
    """
    instance = reader.blob.index.instances[number]
    segments = reader.segments_of(number)
    if len(segments) == 1:
        reader.load(segments[0])
    digest = hashlib.sha256()
    size = 0
    for piece in reader.pieces(number):
        digest.update(piece)
        size += memoryview(piece).nbytes
        if size > instance.size:
            break
        yield piece
    if size != instance.size or digest.hexdigest() != instance.sha256:
        raise DamagedError(f"{instance.sop_instance_uid} is not what was received")


if __name__ == "__main__":
    main()
