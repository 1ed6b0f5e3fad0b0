"""C-STORE as SCP (PS3.4 Annex B): the data set goes to the spool piece by piece as the peer sends it."""

import time

from dcmpress.scp.association import Association
from dcmpress.scp.commands import (
    AFFECTED_SOP_CLASS_UID,
    AFFECTED_SOP_INSTANCE_UID,
    COMMAND_DATA_SET_TYPE,
    ERROR_COMMENT,
    NO_DATA_SET,
    Command,
    number,
    response_to,
    text,
)
from dcmpress.scp.contexts import is_storage
from dcmpress.scp.errors import NetworkError
from dcmpress.scp.log import logger
from dcmpress.scp.negotiation import Context
from dcmpress.scp.status import (
    CANNOT_UNDERSTAND,
    COMMENT_LENGTH,
    INVALID_SOP_INSTANCE,
    PROCESSING_FAILURE,
    SOP_CLASS_NOT_SUPPORTED,
    SUCCESS,
    store_status,
)
from dcmpress.storage.archive import Archive, Incoming, Receipt
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
    outcome = unreadable = ""
    size = 0
    status, problem = _refusal(context, command, sop_class, sop_instance)
    try:
        if status == SUCCESS:
            receipt, size = _receive(archive, association, context, sop_class, sop_instance)
            outcome, unreadable = receipt.outcome, receipt.problem
    except NetworkError:
        raise
    except (StorageError, OSError) as error:
        status, problem = store_status(error), str(error)
    except Exception:  # the sender keeps its copy, and the association goes on
        logger.exception("store failed", sop_instance=sop_instance)
        status, problem = PROCESSING_FAILURE, "internal error"
    association.skip_data_set()

    response = response_to(command, status)
    if problem:
        response[ERROR_COMMENT] = problem[:COMMENT_LENGTH]
    association.send(context, response)
    if unreadable:
        logger.warning("kept, but cannot be read", sop_instance=sop_instance, problem=unreadable)
    event = logger.info if status == SUCCESS else logger.warning
    event(
        "store",
        sop_instance=sop_instance,
        status=f"{status:04X}",
        outcome=outcome or problem,
        bytes=size,
        ms=round((time.perf_counter() - started) * 1000, 1),
    )


def _refusal(context: Context, command: Command, sop_class: str, sop_instance: str) -> tuple[int, str]:
    """Return the status, and why, with which a request is refused before its data set is looked at."""
    if not is_storage(context.abstract_syntax, accept_private=True):
        return SOP_CLASS_NOT_SUPPORTED, f"{context.abstract_syntax} is no storage SOP class"
    if not is_uid(sop_class):
        return INVALID_SOP_INSTANCE, "no usable Affected SOP Class UID"
    if not is_uid(sop_instance):
        return INVALID_SOP_INSTANCE, "no usable Affected SOP Instance UID"
    if number(command, COMMAND_DATA_SET_TYPE, NO_DATA_SET) == NO_DATA_SET:
        return CANNOT_UNDERSTAND, "the request has no data set"
    return SUCCESS, ""


def is_uid(text: str) -> bool:
    """Tell whether a text can name an instance: PS3.5 chapter 9 made lenient, as real senders are."""
    return 0 < len(text) <= LONGEST_UID and text.isascii() and text.isprintable() and "\\" not in text


def _receive(
    archive: Archive, association: Association, context: Context, sop_class: str, sop_instance: str
) -> tuple[Receipt, int]:
    """Return what became of an instance that is safe now, and its bytes."""
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
        return archive.commit(incoming), incoming.size
    except BaseException:
        incoming.abandon()
        raise
