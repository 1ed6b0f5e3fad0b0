"""DIMSE statuses, and the one place that turns an error into one."""

from typing import Final

from dcmpress.storage.errors import (
    ConflictError,
    MalformedError,
    MismatchError,
    NoSpaceError,
    StorageError,
)

SUCCESS: Final = 0x0000
PENDING: Final = 0xFF00
PENDING_UNSUPPORTED_KEYS: Final = 0xFF01  # PS3.4 table C.4-1: one or more optional keys were not matched
CANCEL: Final = 0xFE00
INVALID_ARGUMENT_VALUE: Final = 0x0115  # PS3.7 C.5.10
NO_SUCH_SOP_INSTANCE: Final = 0x0112  # PS3.7 C.5.14
NO_SUCH_ACTION: Final = 0x0123  # PS3.7 C.5.13
PROCESSING_FAILURE: Final = 0x0110  # PS3.7 C.5.16
INVALID_SOP_INSTANCE: Final = 0x0117  # PS3.7 C.5.12
DUPLICATE_SOP_INSTANCE: Final = 0x0111  # PS3.7 C.5.7
SOP_CLASS_NOT_SUPPORTED: Final = 0x0122  # PS3.7 annex C
UNRECOGNISED_OPERATION: Final = 0x0211  # PS3.7 C.5.23

OUT_OF_RESOURCES: Final = 0xA700  # PS3.4 tables B.2-1 and C.4-1
OUT_OF_RESOURCES_MATCHES: Final = 0xA701  # PS3.4 tables C.4-2, C.4-3: number of matches
OUT_OF_RESOURCES_SUBOPERATIONS: Final = 0xA702
MOVE_DESTINATION_UNKNOWN: Final = 0xA801  # PS3.4 table C.4-2
DATA_SET_DOES_NOT_MATCH: Final = 0xA900  # PS3.4 tables B.2-1, C.4-1 to C.4-3
CANNOT_UNDERSTAND: Final = 0xC000  # PS3.4 table B.2-1: C000 to CFFF
UNABLE_TO_PROCESS: Final = 0xC001  # PS3.4 table C.4-1
SUBOPERATIONS_FAILED: Final = 0xB000  # PS3.4 tables C.4-2, C.4-3: complete, with failures

COMMENT_LENGTH: Final = 64
"""Characters of (0000,0902) Error Comment, VR LO."""

_STORE: tuple[tuple[type[StorageError], int], ...] = (
    (NoSpaceError, OUT_OF_RESOURCES),
    (MismatchError, DATA_SET_DOES_NOT_MATCH),
    (MalformedError, CANNOT_UNDERSTAND),
    (ConflictError, DUPLICATE_SOP_INSTANCE),
)


def store_status(error: Exception) -> int:
    """Return the status of a C-STORE that failed with `error` (PS3.4 table B.2-1)."""
    return next((status for kind, status in _STORE if isinstance(error, kind)), PROCESSING_FAILURE)


def is_warning(status: int) -> bool:
    """Tell whether a C-STORE response means success with a warning (PS3.4 table B.2-1, PS3.7 C.5)."""
    return status >> 12 == 0xB or status in (0x0001, 0x0107, 0x0116)
