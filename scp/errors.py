"""What can go wrong on the wire.

NetworkError
├── ConnectionLostError     the peer is gone, or too slow
├── AbortedError            the peer aborted the association
├── ReleasedError           the peer released the association
├── ProtocolError           the peer broke PS3.7 or PS3.8: the association is to be aborted
└── RefusedError            a peer refused the association that we asked for
"""


class NetworkError(Exception):
    """Base of everything that ends an association."""

    transient = True
    """The same may go well later."""


class ConnectionLostError(NetworkError):
    """The connection is closed, reset, or was silent for longer than allowed."""


class AbortedError(NetworkError):
    """The peer sent A-ABORT."""


class ReleasedError(NetworkError):
    """The peer sent A-RELEASE-RQ: the regular end."""


class ProtocolError(NetworkError):
    """The peer sent what the standard does not allow here.

    `reason` is the A-P-ABORT reason of PS3.8 table 9-26.
    """

    UNRECOGNISED_PDU = 1
    UNEXPECTED_PDU = 2
    UNEXPECTED_PARAMETER = 5
    INVALID_PARAMETER = 6

    transient = False

    def __init__(self, message: str, reason: int = INVALID_PARAMETER) -> None:
        super().__init__(message)
        self.reason = reason


class RefusedError(NetworkError):
    """The association that we asked for was rejected, or no presentation context was accepted."""

    def __init__(self, message: str, *, transient: bool = True) -> None:
        super().__init__(message)
        self.transient = transient
