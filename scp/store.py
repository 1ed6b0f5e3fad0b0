"""C-STORE as SCP (PS3.4 Annex B): the data set goes to the spool piece by piece as the peer sends it."""

import time

from dcmpress.scp.association import Association
from dcmpress.scp.commands import (
    AFFECTED_SOP_CLASS_UID,
    AFFECTED_SOP_INSTANCE_UID,
    ERROR_COMMENT,
    Command,
    response_to,
    text,
)
from dcmpress.scp.log import logger
from dcmpress.scp.negotiation import Context
from dcmpress.scp.status import COMMENT_LENGTH, INVALID_SOP_INSTANCE, SUCCESS, store_status
from dcmpress.storage.archive import Archive, Incoming
from dcmpress.storage.errors import StorageError
from dcmpress.storage.part10 import FileMeta
from dcmpress.storage.spool import Sender

LONGEST_UID = 64


def serve_store(archive: Archive, association: Association, context: Context, command: Command) -> None:
    """Receive one instance and answer; the answer is success only once the instance is safe.

    Raises
    ------
    NetworkError
        If the association ends before the instance is whole: nothing of it is kept.
    """
    started = time.perf_counter()
    sop_class = text(command, AFFECTED_SOP_CLASS_UID) or context.abstract_syntax
    sop_instance = text(command, AFFECTED_SOP_INSTANCE_UID)
    outcome = ""
    size = 0
    try:
        if not sop_instance or len(sop_instance) > LONGEST_UID or not sop_instance.isascii():
            association.skip_data_set()
            status, problem = INVALID_SOP_INSTANCE, "no usable Affected SOP Instance UID"
        else:
            receipt, size = _receive(archive, association, context, sop_class, sop_instance)
            status, problem, outcome = SUCCESS, "", receipt
    except (StorageError, OSError) as error:
        association.skip_data_set()
        status, problem = store_status(error), str(error)

    response = response_to(command, status)
    if problem:
        response[ERROR_COMMENT] = problem[:COMMENT_LENGTH]
    association.send(context, response)
    event = logger.info if status == SUCCESS else logger.warning
    event(
        "store",
        sop_instance=sop_instance,
        status=f"{status:04X}",
        outcome=outcome or problem,
        bytes=size,
        ms=round((time.perf_counter() - started) * 1000, 1),
    )


def _receive(
    archive: Archive, association: Association, context: Context, sop_class: str, sop_instance: str
) -> tuple[str, int]:
    """Return (outcome, bytes) of an instance that is safe now."""
    sender = Sender(association.calling_ae, association.called_ae, association.peer)
    meta = FileMeta(
        sop_class,
        sop_instance,
        context.transfer_syntax,
        source_ae=association.calling_ae,
        receiving_ae=association.called_ae,
    )
    incoming: Incoming = archive.begin(meta, sender)
    try:
        for piece in association.data_set():
            incoming.write(piece)
        return archive.commit(incoming).outcome, incoming.size
    except BaseException:
        incoming.abandon()
        raise
