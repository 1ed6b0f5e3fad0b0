"""DIMSE command sets (PS3.7 section 6.3.1 and Annex E): always implicit VR little endian, always flat."""

import struct
from collections.abc import Mapping
from typing import Final

from dcmpress.scp.errors import ProtocolError

# Elements of group 0000 by number (PS3.7 table E.1-1).
GROUP_LENGTH: Final = 0x0000
AFFECTED_SOP_CLASS_UID: Final = 0x0002
REQUESTED_SOP_CLASS_UID: Final = 0x0003
COMMAND_FIELD: Final = 0x0100
MESSAGE_ID: Final = 0x0110
MESSAGE_ID_BEING_RESPONDED_TO: Final = 0x0120
MOVE_DESTINATION: Final = 0x0600
PRIORITY: Final = 0x0700
COMMAND_DATA_SET_TYPE: Final = 0x0800
STATUS: Final = 0x0900
OFFENDING_ELEMENT: Final = 0x0901
ERROR_COMMENT: Final = 0x0902
AFFECTED_SOP_INSTANCE_UID: Final = 0x1000
REQUESTED_SOP_INSTANCE_UID: Final = 0x1001
EVENT_TYPE_ID: Final = 0x1002
ACTION_TYPE_ID: Final = 0x1008
REMAINING_SUBOPERATIONS: Final = 0x1020
COMPLETED_SUBOPERATIONS: Final = 0x1021
FAILED_SUBOPERATIONS: Final = 0x1022
WARNING_SUBOPERATIONS: Final = 0x1023
MOVE_ORIGINATOR_AE_TITLE: Final = 0x1030
MOVE_ORIGINATOR_MESSAGE_ID: Final = 0x1031

# Values of Command Field (PS3.7 table E.1-1).
C_STORE_RQ: Final = 0x0001
C_STORE_RSP: Final = 0x8001
C_GET_RQ: Final = 0x0010
C_GET_RSP: Final = 0x8010
C_FIND_RQ: Final = 0x0020
C_FIND_RSP: Final = 0x8020
C_MOVE_RQ: Final = 0x0021
C_MOVE_RSP: Final = 0x8021
C_ECHO_RQ: Final = 0x0030
N_EVENT_REPORT_RQ: Final = 0x0100
N_EVENT_REPORT_RSP: Final = 0x8100
N_ACTION_RQ: Final = 0x0130
C_ECHO_RSP: Final = 0x8030
C_CANCEL_RQ: Final = 0x0FFF
RESPONSE: Final = 0x8000
"""Bit of Command Field that tells a response from a request."""

NO_DATA_SET: Final = 0x0101
DATA_SET_FOLLOWS: Final = 0x0001

_UIDS = frozenset(
    {
        AFFECTED_SOP_CLASS_UID,
        REQUESTED_SOP_CLASS_UID,
        AFFECTED_SOP_INSTANCE_UID,
        REQUESTED_SOP_INSTANCE_UID,
    }
)
_TEXTS = frozenset({MOVE_DESTINATION, ERROR_COMMENT, MOVE_ORIGINATOR_AE_TITLE})
_NUMBERS = frozenset(
    {
        COMMAND_FIELD,
        MESSAGE_ID,
        MESSAGE_ID_BEING_RESPONDED_TO,
        PRIORITY,
        COMMAND_DATA_SET_TYPE,
        STATUS,
        EVENT_TYPE_ID,
        ACTION_TYPE_ID,
        REMAINING_SUBOPERATIONS,
        COMPLETED_SUBOPERATIONS,
        FAILED_SUBOPERATIONS,
        WARNING_SUBOPERATIONS,
        MOVE_ORIGINATOR_MESSAGE_ID,
    }
)

LARGEST_COMMAND: Final = 1 << 16
"""Bytes of a command set; the standard's own stay under 1 KB."""

_HEADER = struct.Struct("<HHI")
_U16 = struct.Struct("<H")

Command = dict[int, int | str | bytes]
"""Element number in group 0000 -> value: int for US, str for UI, AE and LO, bytes for what is not known."""


def decode_command(data: bytes | bytearray) -> Command:
    """Decode a command set.

    Raises
    ------
    ProtocolError
        If the bytes are not a command set with a Command Field.
    """
    command: Command = {}
    at, size = 0, len(data)
    while at < size:
        if size - at < 8:
            raise ProtocolError("command set ends inside an element")
        group, number, length = _HEADER.unpack_from(data, at)
        at += 8
        if group != 0 or length > size - at:
            raise ProtocolError(f"({group:04X},{number:04X}) of {length} bytes does not belong in a command")
        raw = bytes(data[at : at + length])
        at += length
        if number in _NUMBERS:
            if length < 2:
                raise ProtocolError(f"(0000,{number:04X}) has no value")
            command[number] = _U16.unpack_from(raw)[0]
        elif number in _UIDS or number in _TEXTS:
            command[number] = raw.decode("latin-1").strip(" \0")
        elif number != GROUP_LENGTH:
            command[number] = raw
    if COMMAND_FIELD not in command:
        raise ProtocolError("command set without Command Field")
    return command


def encode_command(command: Mapping[int, int | str | bytes]) -> bytes:
    """Encode a command set, its group length included; elements are sorted, empty ones kept."""
    parts: list[bytes] = []
    for number in sorted(command):
        value = command[number]
        if isinstance(value, int):
            raw = _U16.pack(value)
        elif isinstance(value, bytes):
            raw = value
        else:
            raw = value.encode("latin-1", "replace")
            if len(raw) % 2:
                raw += b"\0" if number in _UIDS else b" "
        parts.append(_HEADER.pack(0, number, len(raw)) + raw)
    body = b"".join(parts)
    return _HEADER.pack(0, GROUP_LENGTH, 4) + struct.pack("<I", len(body)) + body


def number(command: Command, element: int, default: int = 0) -> int:
    """Return a numeric element of a command, or `default` if it is not there."""
    value = command.get(element, default)
    return value if isinstance(value, int) else default


def text(command: Command, element: int) -> str:
    """Return a text element of a command, or "" if it is not there."""
    value = command.get(element, "")
    return value if isinstance(value, str) else ""


def response_to(command: Command, status: int) -> Command:
    """Return the response to a request: same SOP UIDs, its Message ID, and `status`; no data set."""
    response: Command = {
        COMMAND_FIELD: number(command, COMMAND_FIELD) | RESPONSE,
        MESSAGE_ID_BEING_RESPONDED_TO: number(command, MESSAGE_ID),
        COMMAND_DATA_SET_TYPE: NO_DATA_SET,
        STATUS: status,
    }
    for element in (AFFECTED_SOP_CLASS_UID, AFFECTED_SOP_INSTANCE_UID):
        if element in command:
            response[element] = command[element]
    return response
