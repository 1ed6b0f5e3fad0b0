"""C-FIND as SCP (PS3.4 C.4.1): answers streamed as the catalog yields them, C-CANCEL heard between two."""

import struct
from itertools import islice

from dcmpress.scp.association import Association
from dcmpress.scp.commands import (
    COMMAND_DATA_SET_TYPE,
    DATA_SET_FOLLOWS,
    ERROR_COMMENT,
    MESSAGE_ID,
    OFFENDING_ELEMENT,
    Command,
    encode_command,
    number,
    response_to,
)
from dcmpress.scp.extended import QueryOptions
from dcmpress.scp.find import FindRequest, find_responses
from dcmpress.scp.identifier import IdentifierError
from dcmpress.scp.log import logger
from dcmpress.scp.negotiation import Context
from dcmpress.scp.settings import ScpSettings
from dcmpress.scp.status import (
    CANCEL,
    COMMENT_LENGTH,
    OUT_OF_RESOURCES,
    PENDING,
    PENDING_UNSUPPORTED_KEYS,
    SUCCESS,
    UNABLE_TO_PROCESS,
)
from dcmpress.scp.upper_layer import IS_COMMAND
from dcmpress.storage.archive import Archive
from dcmpress.storage.errors import StorageError

_TAG = struct.Struct("<HH")


def serve_find(
    archive: Archive, association: Association, context: Context, command: Command, settings: ScpSettings
) -> None:
    """Answer a C-FIND: a pending response for each match, then the final one."""
    options = association.negotiated.query_options.get(context.abstract_syntax, QueryOptions())
    request = FindRequest(
        sop_class_uid=context.abstract_syntax,
        identifier=association.identifier(),
        transfer_syntax_uid=context.transfer_syntax,
        retrieve_ae_title=settings.ae_title,
        relational=options.relational,
        fuzzy=options.fuzzy,
        combined_time=options.combined_time,
        empty_values=options.empty_values,
    )
    with association.layer.held_back():
        status, matches, problem = _answer(archive, association, context, command, request, settings)
    event = logger.info if status in (SUCCESS, CANCEL) else logger.warning
    event("find", status=f"{status:04X}", matches=matches, **({"problem": problem} if problem else {}))


def _answer(
    archive: Archive,
    association: Association,
    context: Context,
    command: Command,
    request: FindRequest,
    settings: ScpSettings,
) -> tuple[int, int, str]:
    """Send the responses; return the last one's status, the number of matches, and what is wrong, or ""."""
    message_id = number(command, MESSAGE_ID)
    matches = 0
    status, problem = SUCCESS, ""
    identifier_error: IdentifierError | None = None
    try:
        answers = find_responses(archive.catalog, request)
        pending = response_to(command, PENDING_UNSUPPORTED_KEYS if answers.ignores_keys else PENDING)
        pending[COMMAND_DATA_SET_TYPE] = DATA_SET_FOLLOWS
        pending_command = encode_command(pending)  # the same for every match
        for answer in islice(answers.identifiers, settings.find_limit or None):
            association.layer.send_data(context.context_id, IS_COMMAND, [pending_command])
            association.layer.send_data(context.context_id, 0, [answer])
            matches += 1
            if association.cancelled(message_id):
                status = CANCEL
                break
        else:
            if settings.find_limit and next(answers.identifiers, None) is not None:
                status = OUT_OF_RESOURCES
                problem = f"more than {settings.find_limit} matches; narrow the query"
    except IdentifierError as error:
        status, identifier_error = error.status, error
    except StorageError as error:
        status, problem = UNABLE_TO_PROCESS, str(error)
    response = response_to(command, status)
    if problem:
        response[ERROR_COMMENT] = problem[:COMMENT_LENGTH]
    if identifier_error is not None:
        explain(response, identifier_error)
    association.send(context, response)
    return status, matches, problem


def explain(response: Command, error: IdentifierError) -> None:
    """Say in a response, and in the log, what is wrong with an identifier."""
    response[ERROR_COMMENT] = str(error)[:COMMENT_LENGTH]
    if error.offending:
        response[OFFENDING_ELEMENT] = b"".join(_TAG.pack(tag >> 16, tag & 0xFFFF) for tag in error.offending)
    logger.warning(
        "identifier refused", problem=error.loggable, offending=[f"{tag:08X}" for tag in error.offending]
    )
