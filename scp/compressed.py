"""Blobs between two nodes: by C-STORE, in a presentation context of our own (docs/decisions/0004).

The sender offers a blob only to a peer that accepts the context and says by its implementation class UID that
it is a node. The receiver answers with success only when everything in the blob has been decoded, confirmed
and made safe; at any other answer the sender goes on instance by instance, as to any peer.
"""

import time
import uuid
from collections.abc import Iterator

from dcmpress.scp.association import Association
from dcmpress.scp.commands import (
    AFFECTED_SOP_CLASS_UID,
    AFFECTED_SOP_INSTANCE_UID,
    C_STORE_RQ,
    COMMAND_DATA_SET_TYPE,
    COMMAND_FIELD,
    DATA_SET_FOLLOWS,
    ERROR_COMMENT,
    MESSAGE_ID,
    MOVE_ORIGINATOR_AE_TITLE,
    MOVE_ORIGINATOR_MESSAGE_ID,
    NO_DATA_SET,
    PRIORITY,
    Command,
    number,
    response_to,
)
from dcmpress.scp.contexts import BLOB_FORMAT_1, BLOB_STORAGE
from dcmpress.scp.errors import NetworkError
from dcmpress.scp.log import logger
from dcmpress.scp.negotiation import Context
from dcmpress.scp.retrieve import sub_operation_status
from dcmpress.scp.status import (
    CANNOT_UNDERSTAND,
    COMMENT_LENGTH,
    PROCESSING_FAILURE,
    SUCCESS,
    store_status,
)
from dcmpress.storage.archive import Archive
from dcmpress.storage.errors import StorageError
from dcmpress.storage.exchange import IncomingBlob, Taken, WholeBlob
from dcmpress.storage.spool import Sender

_SLOWEST_DECODING = 1 << 18
"""Bytes of data sets per second that a receiver is expected to decode at least, before it answers."""

_CHUNK = 1 << 20


def context_of(association: Association) -> Context | None:
    """Return the context in which the peer of an association takes blobs; None if it does not."""
    if not association.negotiated.peer_is_a_node:
        return None
    for context in association.negotiated.contexts.values():
        if (context.abstract_syntax, context.transfer_syntax) == (BLOB_STORAGE, BLOB_FORMAT_1):
            return context
    return None


def send_blob(
    association: Association,
    context: Context,
    blob: WholeBlob,
    priority: int,
    originator: str,
    originator_message_id: int,
) -> int:
    """Send a blob; return the status of the answer, which is success when the peer has all of it safe.

    Raises
    ------
    NetworkError
    """
    try:
        file = blob.path.open("rb")
    except OSError as error:  # re-compressed meanwhile
        logger.info("blob not sent", blob=blob.name, problem=str(error))
        return PROCESSING_FAILURE
    request: Command = {
        AFFECTED_SOP_CLASS_UID: BLOB_STORAGE,
        COMMAND_FIELD: C_STORE_RQ,
        MESSAGE_ID: 1,
        PRIORITY: priority,
        COMMAND_DATA_SET_TYPE: DATA_SET_FOLLOWS,
        AFFECTED_SOP_INSTANCE_UID: f"2.25.{uuid.uuid4().int}",
        MOVE_ORIGINATOR_AE_TITLE: originator,
        MOVE_ORIGINATOR_MESSAGE_ID: originator_message_id,
    }

    def pieces() -> Iterator[bytes]:
        while chunk := file.read(_CHUNK):
            yield chunk

    patience = association.idle_timeout
    with file:
        association.send(context, request, pieces())
    try:
        association.idle_timeout = patience + blob.raw_size / _SLOWEST_DECODING
        status = sub_operation_status(association, 1, None)
    finally:
        association.idle_timeout = patience
    event = logger.info if status == SUCCESS else logger.warning
    event(
        "blob sent",
        blob=blob.name,
        status=f"{status:04X}",
        instances=len(blob.instances),
        bytes=blob.size,
        raw_bytes=blob.raw_size,
    )
    return status


def serve_blob(archive: Archive, association: Association, context: Context, command: Command) -> None:
    """Receive a blob and answer; the answer is success only once all that is in it is confirmed and safe.

    Raises
    ------
    NetworkError
        If the association ends before the blob is whole: nothing of it is kept.
    """
    started = time.perf_counter()
    status, problem, size = SUCCESS, "", 0
    taken: Taken | None = None
    try:
        if number(command, COMMAND_DATA_SET_TYPE, NO_DATA_SET) == NO_DATA_SET:
            status, problem = CANNOT_UNDERSTAND, "the request has no data set"
        else:
            taken, size = _receive(archive, association)
    except NetworkError:
        raise
    except (StorageError, OSError) as error:
        status, problem = store_status(error), str(error)
    except Exception:  # the sender keeps its copy, and the association goes on
        logger.exception("blob failed")
        status, problem = PROCESSING_FAILURE, "internal error"
    association.skip_data_set()
    response = response_to(command, status)
    if problem:
        response[ERROR_COMMENT] = problem[:COMMENT_LENGTH]
    association.send(context, response)
    event = logger.info if status == SUCCESS else logger.warning
    event(
        "blob received",
        status=f"{status:04X}",
        bytes=size,
        instances=taken.instances if taken else 0,
        raw_bytes=taken.raw_size if taken else 0,
        kept=taken is not None and taken.adopted,
        problem=problem,
        ms=round((time.perf_counter() - started) * 1000, 1),
    )


def _receive(archive: Archive, association: Association) -> tuple[Taken, int]:
    incoming = IncomingBlob(archive)
    try:
        for piece in association.data_set():
            incoming.write(piece)
        taken = incoming.commit(Sender(association.calling_ae, association.called_ae, association.peer))
        return taken, incoming.size
    finally:
        incoming.close()
