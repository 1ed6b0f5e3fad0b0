"""C-GET and C-MOVE as SCP (PS3.4 C.4.2, C.4.3): our own C-STORE sub-operations, with honest counts.

Instances go out byte for byte as they are stored wherever the receiver takes their transfer syntax. What
cannot be read, converted or delivered is counted as failed and listed by its UID; the rest goes on.
"""

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from dcmpress.scp import negotiation
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
    MOVE_DESTINATION,
    MOVE_ORIGINATOR_AE_TITLE,
    MOVE_ORIGINATOR_MESSAGE_ID,
    PRIORITY,
    REMAINING_SUBOPERATIONS,
    STATUS,
    WARNING_SUBOPERATIONS,
    Command,
    number,
    response_to,
    text,
)
from dcmpress.scp.errors import NetworkError, ProtocolError
from dcmpress.scp.find import retrieve_query
from dcmpress.scp.identifier import IdentifierError, encode_failed_list
from dcmpress.scp.log import logger
from dcmpress.scp.negotiation import Context
from dcmpress.scp.query import explain
from dcmpress.scp.settings import Peer, ScpSettings
from dcmpress.scp.status import (
    CANCEL,
    COMMENT_LENGTH,
    MOVE_DESTINATION_UNKNOWN,
    OUT_OF_RESOURCES_SUBOPERATIONS,
    PENDING,
    SUBOPERATIONS_FAILED,
    SUCCESS,
    UNABLE_TO_PROCESS,
    is_warning,
)
from dcmpress.scp.upper_layer import UpperLayer
from dcmpress.storage.archive import Archive
from dcmpress.storage.catalog.search import Located
from dcmpress.storage.errors import StorageError
from dcmpress.storage.retrieve import Failed, Outgoing
from dcmpress.storage.targets import candidates, targets_for

MOST_CONTEXTS = 128
"""Presentation contexts of one association: ids are the odd numbers of a byte (PS3.8 9.3.2.2)."""

LARGEST_COUNT = 0xFFFF
"""Sub-operation counts are 16 bits wide; larger ones are shown as this."""


MOST_BREAKS = 3
"""Associations in a row that a destination may break off at the first instance."""


class _DestinationError(Exception):
    """The destination of a C-MOVE cannot be reached, or its association broke."""


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


class _Retrieval:
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
            self._pending()
            self.cancelled |= self.association.cancelled(self.message_id)
        return not self.cancelled

    def _pending(self) -> None:
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
    located = _locate(archive, association, context, command)
    if located is None:
        return
    retrieval = _Retrieval(association, context, command, len(located))
    priority = number(command, PRIORITY)
    by_class: dict[str, list[Context]] = defaultdict(list)
    for candidate in association.negotiated.contexts.values():
        if candidate.we_are_scu:
            by_class[candidate.abstract_syntax].append(candidate)
    message_id = retrieval.message_id
    for item in _outgoing(archive, located, by_class, settings.preferred_by(association.calling_ae)):
        uid = item.located.sop_instance_uid
        if isinstance(item, Failed):
            _log_failed(item)
            status = UNABLE_TO_PROCESS
        else:
            message_id = message_id % LARGEST_COUNT + 1
            target = _context_for(by_class, item)
            association.send(target, _store_request(item, message_id, priority), item.pieces())
            status = _sub_operation_status(association, message_id, retrieval)
        retrieval.progress.count(uid, status)
        if not retrieval.go_on():
            break
    retrieval.finish()


def serve_move(
    archive: Archive, association: Association, context: Context, command: Command, settings: ScpSettings
) -> None:
    """Serve a C-MOVE: send what matches to the destination, then the final response."""
    located = _locate(archive, association, context, command)
    if located is None:
        return
    retrieval = _Retrieval(association, context, command, len(located))
    destination = settings.known_peers.get(text(command, MOVE_DESTINATION))
    if destination is None:
        title = text(command, MOVE_DESTINATION)
        logger.warning("move destination unknown", advice=f"add {title} with host and port to dicom.peers")
        retrieval.finish(status=MOVE_DESTINATION_UNKNOWN, problem=f"{title} is not in dicom.peers")
        return
    problem = ""
    for part in _by_association(located):
        problem = _move_part(archive, retrieval, destination, part, settings) or problem
        if retrieval.cancelled:
            break
    retrieval.finish(problem=problem)


def _move_part(
    archive: Archive,
    retrieval: _Retrieval,
    destination: Peer,
    located: Sequence[Located],
    settings: ScpSettings,
) -> str:
    """Send instances whose contexts fit one association; return what kept that from working, or "".

    An instance on which the destination gives up its association fails, and the rest go over another one,
    until that has happened MOST_BREAKS times in a row.
    """
    waiting = deque(located)
    problem = ""
    breaks = 0
    while waiting and breaks < MOST_BREAKS and not retrieval.cancelled:
        before = len(waiting)
        try:
            outward = _open(destination, waiting, settings)
        except _DestinationError as error:
            _log_destination(destination, error)
            problem = str(error)
            break
        try:
            _send_waiting(archive, retrieval, outward, waiting, settings.preferred_by(destination.ae_title))
            outward.release()
        except _DestinationError as error:
            _log_destination(destination, error)
            problem = str(error)
            outward.abort()
            breaks = 1 if before - len(waiting) > 1 else breaks + 1
        except BaseException:  # the requestor went away
            outward.abort()
            raise
    if not retrieval.cancelled:
        for item in waiting:
            retrieval.progress.count(item.sop_instance_uid, UNABLE_TO_PROCESS)
    return problem


def _send_waiting(
    archive: Archive,
    retrieval: _Retrieval,
    outward: Association,
    waiting: deque[Located],
    preferred: Sequence[str],
) -> None:
    """Send instances, taking each off `waiting` as its sub-operation begins."""
    by_class: dict[str, list[Context]] = defaultdict(list)
    for candidate in outward.negotiated.contexts.values():
        by_class[candidate.abstract_syntax].append(candidate)
    for message_id, item in enumerate(_outgoing(archive, list(waiting), by_class, preferred), 1):
        uid = waiting.popleft().sop_instance_uid
        if isinstance(item, Failed):
            _log_failed(item)
            status = UNABLE_TO_PROCESS
        else:
            target = _context_for(by_class, item)
            try:
                status = _deliver(outward, target, item, message_id % LARGEST_COUNT + 1, retrieval)
            except _DestinationError:
                retrieval.progress.count(uid, UNABLE_TO_PROCESS)
                raise
        retrieval.progress.count(uid, status)
        if not retrieval.go_on():
            return


def _log_destination(destination: Peer, error: _DestinationError) -> None:
    logger.warning("destination fails", destination=destination.ae_title, problem=str(error))


def _open(destination: Peer, located: Sequence[Located], settings: ScpSettings) -> Association:
    """Open an association with a destination for instances; raise _DestinationError if that fails."""
    try:
        connected = negotiation.connect(destination, settings.association_timeout, settings.tls_files)
        layer = UpperLayer(connected, settings.pdu_timeout)
        try:
            negotiated = negotiation.request(
                layer,
                settings.ae_title,
                destination.ae_title,
                _proposals(located),
                settings.max_pdu,
                settings.association_timeout,
            )
        except NetworkError:
            layer.close()
            raise
        return Association(layer, negotiated, destination.host, settings.response_timeout)
    except NetworkError as error:
        raise _DestinationError(str(error)) from error


def _deliver(
    outward: Association, target: Context, item: Outgoing, message_id: int, retrieval: _Retrieval
) -> int:
    """Send one instance to a destination; return the status that it answers with."""
    request = _store_request(item, message_id, number(retrieval.command, PRIORITY))
    request[MOVE_ORIGINATOR_AE_TITLE] = retrieval.association.calling_ae
    request[MOVE_ORIGINATOR_MESSAGE_ID] = retrieval.message_id
    try:
        outward.send(target, request, item.pieces())
        return _sub_operation_status(outward, message_id, None)
    except NetworkError as error:
        raise _DestinationError(str(error)) from error


def _store_request(item: Outgoing, message_id: int, priority: int) -> Command:
    return {
        AFFECTED_SOP_CLASS_UID: item.located.sop_class_uid,
        COMMAND_FIELD: C_STORE_RQ,
        MESSAGE_ID: message_id,
        PRIORITY: priority,
        COMMAND_DATA_SET_TYPE: DATA_SET_FOLLOWS,
        AFFECTED_SOP_INSTANCE_UID: item.located.sop_instance_uid,
    }


def _sub_operation_status(association: Association, message_id: int, retrieval: _Retrieval | None) -> int:
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


def _proposals(located: Sequence[Located]) -> list[tuple[str, Sequence[str]]]:
    """Propose a context for every pair of SOP class and stored syntax, and for what we can convert to.

    One context with several syntaxes would not do: the acceptor picks one of them for all.
    """
    stored = {(item.sop_class_uid, item.transfer_syntax_uid) for item in located}
    exact = [(sop_class, (syntax,)) for sop_class, syntax in sorted(stored)]
    classes = sorted({sop_class for sop_class, _ in stored})
    converted = [(sop_class, (syntax,)) for sop_class in classes for syntax in targets_for(sop_class)]
    return list(dict.fromkeys([*exact, *converted]))


def _by_association(located: Sequence[Located]) -> Iterator[list[Located]]:
    """Cut into parts whose presentation contexts fit one association; the order within is kept."""
    classes: dict[str, set[str]] = defaultdict(set)
    for item in located:
        classes[item.sop_class_uid].add(item.transfer_syntax_uid)
    part: set[str] = set()
    used = 0
    parts: list[set[str]] = [part]
    for sop_class, syntaxes in classes.items():
        needed = len(syntaxes.union(targets_for(sop_class)))
        if used + needed > MOST_CONTEXTS:
            part = set()
            parts.append(part)
            used = 0
        part.add(sop_class)
        used += needed
    for part in parts:
        yield [item for item in located if item.sop_class_uid in part]


def _log_failed(item: Failed) -> None:
    logger.error("instance not sent", sop_instance=item.located.sop_instance_uid, problem=str(item.error))


def _locate(
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


def _outgoing(
    archive: Archive,
    located: Sequence[Located],
    by_class: dict[str, list[Context]],
    preferred: Sequence[str],
) -> Iterator[Outgoing | Failed]:
    def syntaxes_for(item: Located) -> list[str]:
        accepted = [context.transfer_syntax for context in by_class.get(item.sop_class_uid, ())]
        return candidates(item.transfer_syntax_uid, accepted, preferred)

    with closing(archive.retrieve(located, syntaxes_for)) as outgoing:
        yield from outgoing


def _context_for(by_class: dict[str, list[Context]], item: Outgoing) -> Context:
    return next(
        context
        for context in by_class[item.located.sop_class_uid]
        if context.transfer_syntax == item.transfer_syntax_uid
    )
