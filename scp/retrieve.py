"""C-GET as SCP (PS3.4 C.4.3), and what C-MOVE shares with it: C-STORE sub-operations with honest counts.

Instances go out byte for byte as they are stored wherever the receiver takes their transfer syntax. What
cannot be read, converted or delivered is counted as failed and listed by its UID; the rest goes on.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from dcmpress.scp.association import Association
from dcmpress.scp.commands import (
    AFFECTED_SOP_CLASS_UID,
    AFFECTED_SOP_INSTANCE_UID,
    C_STORE_RQ,
    C_STORE_RSP,
    COMMAND_DATA_SET_TYPE,
    COMMAND_FIELD,
    COMPLETED_SUBOPERATIONS,
    DATA_SET_FOLLOWS,
    ERROR_COMMENT,
    FAILED_SUBOPERATIONS,
    MESSAGE_ID,
    MESSAGE_ID_BEING_RESPONDED_TO,
    PRIORITY,
    REMAINING_SUBOPERATIONS,
    STATUS,
    WARNING_SUBOPERATIONS,
    Command,
    number,
    response_to,
)
from dcmpress.scp.contexts import WITHOUT_BULK_DATA
from dcmpress.scp.errors import ProtocolError
from dcmpress.scp.find import retrieve_query
from dcmpress.scp.identifier import IdentifierError, encode_failed_list
from dcmpress.scp.log import logger
from dcmpress.scp.negotiation import Context
from dcmpress.scp.query import explain
from dcmpress.scp.settings import ScpSettings
from dcmpress.scp.status import (
    CANCEL,
    COMMENT_LENGTH,
    OUT_OF_RESOURCES_SUBOPERATIONS,
    PENDING,
    SUBOPERATIONS_FAILED,
    SUCCESS,
    UNABLE_TO_PROCESS,
    is_warning,
)
from dcmpress.storage.archive import Archive
from dcmpress.storage.catalog.search import Located
from dcmpress.storage.errors import ConversionError, StorageError
from dcmpress.storage.retrieve import Failed, Outgoing
from dcmpress.storage.targets import candidates
from dcmpress.storage.without_bulk import without_bulk_data

LARGEST_COUNT = 0xFFFF
"""Sub-operation counts are 16 bits wide (VR US); larger ones are shown as this."""


@dataclass
class Progress:
    """Sub-operations of one retrieval."""

    remaining: int
    completed: int = 0
    failed: int = 0
    warnings: int = 0
    failed_uids: list[str] = field(default_factory=list)

    def count(self, sop_instance_uid: str, status: int) -> None:
        """Count a sub-operation that ended with `status`."""
        self.remaining -= 1
        if status == SUCCESS:
            self.completed += 1
        elif is_warning(status):
            self.warnings += 1
        else:
            self.failed += 1
            self.failed_uids.append(sop_instance_uid)

    def write(self, response: Command, *, remaining: bool) -> None:
        """Enter the counts in a response; Remaining only while there is something to come (C.4.2.1.6)."""
        if remaining:
            response[REMAINING_SUBOPERATIONS] = min(self.remaining, LARGEST_COUNT)
        response[COMPLETED_SUBOPERATIONS] = min(self.completed, LARGEST_COUNT)
        response[FAILED_SUBOPERATIONS] = min(self.failed, LARGEST_COUNT)
        response[WARNING_SUBOPERATIONS] = min(self.warnings, LARGEST_COUNT)


class Retrieval:
    """One C-GET or C-MOVE request being served."""

    def __init__(self, association: Association, context: Context, command: Command, n: int) -> None:
        self.association = association
        self.context = context
        self.command = command
        self.message_id = number(command, MESSAGE_ID)
        self.progress = Progress(n)
        self.cancelled = False

    def go_on(self) -> bool:
        """After a sub-operation: tell the requestor how far we are, and whether it wants the rest."""
        if self.progress.remaining:
            self.report()
            self.look_for_cancel()
        return not self.cancelled

    def look_for_cancel(self) -> None:
        """Note if the requestor has sent C-CANCEL. Does not wait for it."""
        self.cancelled |= self.association.cancelled(self.message_id)

    def report(self) -> None:
        """Tell the requestor how far we are."""
        response = response_to(self.command, PENDING)
        self.progress.write(response, remaining=True)
        self.association.send(self.context, response)

    def finish(self, *, status: int | None = None, problem: str = "") -> None:
        """Send the last response, with the list of what failed."""
        progress = self.progress
        if status is None:
            if self.cancelled:
                status = CANCEL
            elif not progress.failed and not progress.warnings:
                status = SUCCESS
            elif progress.failed and not progress.completed and not progress.warnings:
                status = OUT_OF_RESOURCES_SUBOPERATIONS
            else:
                status = SUBOPERATIONS_FAILED
        response = response_to(self.command, status)
        progress.write(response, remaining=self.cancelled)
        if problem:
            response[ERROR_COMMENT] = problem[:COMMENT_LENGTH]
        data_set = None
        if progress.failed_uids and status != SUCCESS:
            response[COMMAND_DATA_SET_TYPE] = DATA_SET_FOLLOWS
            data_set = [encode_failed_list(progress.failed_uids, self.context.transfer_syntax)]
        self.association.send(self.context, response, data_set)
        event = logger.info if status in (SUCCESS, CANCEL) else logger.warning
        event(
            "retrieve finished",
            status=f"{status:04X}",
            completed=progress.completed,
            failed=progress.failed,
            warnings=progress.warnings,
            **({"problem": problem} if problem else {}),
        )


def serve_get(
    archive: Archive, association: Association, context: Context, command: Command, settings: ScpSettings
) -> None:
    """Serve a C-GET: send what matches on this association, then the final response."""
    located = locate(archive, association, context, command)
    if located is None:
        return
    retrieval = Retrieval(association, context, command, len(located))
    priority = number(command, PRIORITY)
    by_class: dict[str, list[Context]] = defaultdict(list)
    for candidate in association.negotiated.contexts.values():
        if candidate.we_are_scu:
            by_class[candidate.abstract_syntax].append(candidate)
    message_id = retrieval.message_id
    patience, association.idle_timeout = association.idle_timeout, settings.response_timeout
    if context.abstract_syntax == WITHOUT_BULK_DATA:
        given = _without_bulk_data(archive, located, by_class)
    else:
        given = outgoing(archive, located, by_class, settings.preferred_by(association.calling_ae))
    for item in given:
        uid = item.located.sop_instance_uid
        if isinstance(item, Failed):
            log_failed(item)
            status = UNABLE_TO_PROCESS
        else:
            message_id = message_id % LARGEST_COUNT + 1
            target = context_for(by_class, item)
            with association.layer.held_back():
                if retrieval.progress.remaining < len(located):
                    retrieval.report()  # on what came before; by itself it would cost a packet
                association.send(target, store_request(item, message_id, priority), item.pieces())
            status = sub_operation_status(association, message_id, retrieval)
        retrieval.progress.count(uid, status)
        if retrieval.progress.remaining:
            retrieval.look_for_cancel()
        if retrieval.cancelled:
            break
    association.idle_timeout = patience
    retrieval.finish()


def store_request(item: Outgoing, message_id: int, priority: int) -> Command:
    """Return the C-STORE request for an instance."""
    return {
        AFFECTED_SOP_CLASS_UID: item.located.sop_class_uid,
        COMMAND_FIELD: C_STORE_RQ,
        MESSAGE_ID: message_id,
        PRIORITY: priority,
        COMMAND_DATA_SET_TYPE: DATA_SET_FOLLOWS,
        AFFECTED_SOP_INSTANCE_UID: item.located.sop_instance_uid,
    }


def sub_operation_status(association: Association, message_id: int, retrieval: Retrieval | None) -> int:
    """Return the status of the C-STORE response to `message_id`.

    On the requestor's own association (C-GET) a C-CANCEL may come first.
    """
    while True:
        _, answer = association.receive()
        association.skip_data_set()
        if number(answer, COMMAND_FIELD) == C_STORE_RSP:
            if number(answer, MESSAGE_ID_BEING_RESPONDED_TO) != message_id:
                raise ProtocolError("C-STORE response to another request")
            return number(answer, STATUS, UNABLE_TO_PROCESS)
        if retrieval is None:
            raise ProtocolError("something else than a C-STORE response")
        retrieval.cancelled |= association.is_cancel(answer, retrieval.message_id)


def log_failed(item: Failed) -> None:
    """Say why an instance is not sent."""
    logger.error("instance not sent", sop_instance=item.located.sop_instance_uid, problem=str(item.error))


def locate(
    archive: Archive, association: Association, context: Context, command: Command
) -> list[Located] | None:
    """Return what a request asks for; if it cannot be understood, answer it and return None."""
    try:
        query = retrieve_query(
            context.abstract_syntax,
            association.identifier(),
            context.transfer_syntax,
        )
        return archive.locate(query)
    except (IdentifierError, StorageError) as error:
        response = response_to(command, UNABLE_TO_PROCESS)
        if isinstance(error, IdentifierError):
            response[STATUS] = error.status
            explain(response, error)
        else:
            response[ERROR_COMMENT] = str(error)[:COMMENT_LENGTH]
            logger.error("retrieve fails", problem=str(error))
        association.send(context, response)
        return None


def outgoing(
    archive: Archive,
    located: Sequence[Located],
    by_class: dict[str, list[Context]],
    preferred: Sequence[str],
) -> Iterator[Outgoing | Failed]:
    """Yield instances in a transfer syntax that a context for their SOP class was accepted with.

    The first of those `preferred` that will do, or else as `candidates` orders them.
    """

    def syntaxes_for(item: Located) -> list[str]:
        accepted = [context.transfer_syntax for context in by_class.get(item.sop_class_uid, ())]
        return candidates(item.transfer_syntax_uid, accepted, preferred)

    with closing(archive.retrieve(located, syntaxes_for)) as outgoing:
        yield from outgoing


def _without_bulk_data(
    archive: Archive, located: Sequence[Located], by_class: dict[str, list[Context]]
) -> Iterator[Outgoing | Failed]:
    """Yield instances without their bulk data, confirmed whole before."""
    with closing(archive.retrieve(located, lambda item: item.transfer_syntax_uid)) as whole:
        for item in whole:
            if isinstance(item, Failed):
                yield item
                continue
            accepted = [context.transfer_syntax for context in by_class.get(item.located.sop_class_uid, ())]
            try:
                bare, syntax = without_bulk_data(b"".join(item.pieces()), item.transfer_syntax_uid, accepted)
            except ConversionError as error:
                yield Failed(item.located, error)
            else:
                yield Outgoing(item.located, syntax, len(bare), bare)


def context_for(by_class: dict[str, list[Context]], item: Outgoing) -> Context:
    """Return the context to send an instance in."""
    return next(
        context
        for context in by_class[item.located.sop_class_uid]
        if context.transfer_syntax == item.transfer_syntax_uid
    )
