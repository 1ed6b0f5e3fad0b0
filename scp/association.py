"""DIMSE messages on an established association (PS3.7 section 6, PS3.8 Annex E)."""

import threading
from collections.abc import Iterable, Iterator

from dcmpress.scp.commands import (
    AFFECTED_SOP_CLASS_UID,
    C_CANCEL_RQ,
    C_STORE_RQ,
    COMMAND_DATA_SET_TYPE,
    COMMAND_FIELD,
    LARGEST_COMMAND,
    MESSAGE_ID_BEING_RESPONDED_TO,
    NO_DATA_SET,
    Command,
    decode_command,
    encode_command,
    number,
    text,
)
from dcmpress.scp.errors import NetworkError, ProtocolError
from dcmpress.scp.negotiation import Context, Negotiated
from dcmpress.scp.upper_layer import IS_COMMAND, IS_LAST, Pdv, UpperLayer

LARGEST_IDENTIFIER = 1 << 22
"""Bytes of an identifier (a data set that is read into memory): a list of 65,000 UIDs fits."""

_RELEASE_SECONDS = 5.0


class Association:
    """An established association, used by one thread.

    Parameters
    ----------
    layer : UpperLayer
    negotiated : Negotiated
    peer : str
        Address of the peer.
    idle_timeout : float
        Seconds that the peer may be silent between two messages.
    """

    def __init__(self, layer: UpperLayer, negotiated: Negotiated, peer: str, idle_timeout: float) -> None:
        self.layer = layer
        self.negotiated = negotiated
        self.peer = peer
        self.idle_timeout = idle_timeout
        self.idle = threading.Event()
        """Set by who waits for the next request, cleared when it comes: the association can be ended at once."""
        self._pdvs: Iterator[Pdv] = iter(())
        self._in_data_set: Context | None = None

    @property
    def calling_ae(self) -> str:
        """The requestor's AE title."""
        return self.negotiated.calling_ae

    @property
    def called_ae(self) -> str:
        """The acceptor's AE title as the requestor named it."""
        return self.negotiated.called_ae

    def receive(self) -> tuple[Context, Command]:
        """Return the next message's context and command. Its data set, if any, is to be read next.

        Raises
        ------
        NetworkError
        """
        try:
            pdv = self._next_pdv(self.idle_timeout)
        finally:
            self.idle.clear()
        context_id = pdv.context_id
        context = self.negotiated.contexts.get(context_id)
        if context is None:
            raise ProtocolError(f"message on context {context_id}, which was not accepted")
        data = bytearray()
        while True:
            if pdv.context_id != context_id:
                raise ProtocolError("fragments of two contexts in one command set")
            if not pdv.control & IS_COMMAND:
                raise ProtocolError(
                    "data set without a command before it", ProtocolError.UNEXPECTED_PARAMETER
                )
            data += pdv.data
            if len(data) > LARGEST_COMMAND:
                raise ProtocolError("command set is too large")
            if pdv.control & IS_LAST:
                break
            pdv = self._next_pdv(self.layer.pdu_timeout)
        command = decode_command(data)
        has_data_set = number(command, COMMAND_DATA_SET_TYPE, NO_DATA_SET) != NO_DATA_SET
        self._in_data_set = context if has_data_set else None
        return context, command

    def data_set(self) -> Iterator[memoryview]:
        """Yield the data set of the message just received, piece by piece as the peer sends it.

        A piece is valid until the next one. To be read to its end, whatever becomes of the message.
        """
        while self._in_data_set is not None:
            pdv = self._next_pdv(self.layer.pdu_timeout)
            if pdv.context_id != self._in_data_set.context_id or pdv.control & IS_COMMAND:
                raise ProtocolError("something else in the middle of a data set")
            if pdv.control & IS_LAST:
                self._in_data_set = None
            yield pdv.data

    def identifier(self) -> bytes:
        """Return the data set of the message just received, whole; empty if there is none."""
        data = bytearray()
        for piece in self.data_set():
            data += piece
            if len(data) > LARGEST_IDENTIFIER:
                raise ProtocolError("identifier is too large")
        return bytes(data)

    def skip_data_set(self) -> None:
        """Read the rest of the data set of the message just received and forget it."""
        for _ in self.data_set():
            pass

    def send(
        self, context: Context, command: Command, data_set: Iterable[bytes | memoryview] | None = None
    ) -> None:
        """Send a message; `data_set` in the context's transfer syntax."""
        encoded = encode_command(command)
        if data_set is None:
            self.layer.send_data(context.context_id, IS_COMMAND, [encoded])
            return
        with self.layer.held_back():
            self.layer.send_data(context.context_id, IS_COMMAND, [encoded])
            self.layer.send_data(context.context_id, 0, data_set)

    def cancelled(self, message_id: int) -> bool:
        """Tell whether the peer has sent C-CANCEL for the request `message_id`. Does not wait for one.

        Raises
        ------
        ProtocolError
            If it has sent another request: only one operation may be outstanding, as was negotiated.
        """
        if not self.layer.waiting():
            return False
        _, command = self.receive()
        return self.is_cancel(command, message_id)

    @staticmethod
    def is_cancel(command: Command, message_id: int) -> bool:
        """Tell whether a message that came while `message_id` is worked on cancels it; no other may come."""
        if number(command, COMMAND_FIELD) != C_CANCEL_RQ:
            raise ProtocolError(
                f"{describe(command)} while a request is being answered", ProtocolError.UNEXPECTED_PARAMETER
            )
        return number(command, MESSAGE_ID_BEING_RESPONDED_TO) == message_id

    def release(self) -> None:
        """Release the association as its requestor, and close the connection.

        All is done by then: whoever waits for us is not to wait for a peer that does not answer.
        """
        try:
            self.layer.send_release_request()
            self.layer.read_pdu(min(self.layer.pdu_timeout, _RELEASE_SECONDS))
        except NetworkError:
            pass
        self.layer.close()

    def abort(self) -> None:
        """Abort the association and close the connection."""
        self.layer.send_abort(by_user=True)
        self.layer.close()

    def _next_pdv(self, timeout: float) -> Pdv:
        pdv = next(self._pdvs, None)
        if pdv is None:
            self._pdvs = self.layer.read_data(timeout)
            pdv = next(self._pdvs)
        return pdv


def describe(command: Command) -> str:
    """Name a message for the log: command field and SOP class, no patient's data."""
    names = {C_STORE_RQ: "C-STORE-RQ", C_CANCEL_RQ: "C-CANCEL-RQ"}
    field = number(command, COMMAND_FIELD)
    return f"{names.get(field, f'command {field:#06x}')} {text(command, AFFECTED_SOP_CLASS_UID)}".strip()
