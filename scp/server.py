"""The DICOM listener: one thread per association, blocked in its own socket while there is nothing to do."""

import contextlib
import resource
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog
from pynetdicom.presentation import PresentationContext

from dcmpress.scp import negotiation, tls
from dcmpress.scp.association import Association, describe
from dcmpress.scp.commands import (
    C_CANCEL_RQ,
    C_ECHO_RQ,
    C_FIND_RQ,
    C_GET_RQ,
    C_MOVE_RQ,
    C_STORE_RQ,
    COMMAND_FIELD,
    N_ACTION_RQ,
    RESPONSE,
    Command,
    number,
    response_to,
)
from dcmpress.scp.commitment import CommitmentReporter, serve_action
from dcmpress.scp.compressed import serve_blob
from dcmpress.scp.contexts import BLOB_STORAGE, supported_context
from dcmpress.scp.destination import Destinations
from dcmpress.scp.echo import serve_echo
from dcmpress.scp.errors import (
    AbortedError,
    ConnectionLostError,
    ProtocolError,
    RefusedError,
    ReleasedError,
)
from dcmpress.scp.log import logger
from dcmpress.scp.move import serve_move
from dcmpress.scp.negotiation import Context, Negotiated
from dcmpress.scp.query import serve_find
from dcmpress.scp.retrieve import serve_get
from dcmpress.scp.settings import ScpSettings
from dcmpress.scp.status import UNRECOGNISED_OPERATION
from dcmpress.scp.store import serve_store
from dcmpress.scp.upper_layer import UpperLayer
from dcmpress.storage.archive import Archive

_BACKLOG = 1024
"""Connections that the kernel keeps for us; a burst of modalities must not see refusals."""

_MOST_FILES = 1 << 16
"""Open files that the process asks for: connections that say nothing must not use up those of the spool."""

_SHUTDOWN_REASON = 0

_NOT_ACCEPTED = {
    1: "roles do not fit: the requestor wants to be SCP of a service that only we offer",
    3: "abstract syntax not supported: if this is a private storage class, set "
    "dicom.accept_private_sop_classes: true",
    4: "no transfer syntax in common",
}


@dataclass(eq=False)
class _Connection:
    """A connection and, once negotiated, its association."""

    layer: UpperLayer
    admitted: bool = False
    """Counts against the limit of associations."""
    association: Association | None = None


class DicomServer:
    """Listens on one port and serves an archive.

    Parameters
    ----------
    archive : Archive
    settings : ScpSettings
        `reconfigure` swaps them while associations go on under the old ones.
    """

    def __init__(self, archive: Archive, settings: ScpSettings) -> None:
        self.archive = archive
        self.settings = settings
        self._connections: set[_Connection] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._listeners: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._serial = 0
        self._destinations = Destinations()
        self._reporter = CommitmentReporter(archive, settings)

    def start(self) -> int:
        """Begin to accept associations; return the port (chosen by the system if it was 0)."""
        _raise_file_limit()
        port = self._listen(self.settings.port, None)
        if self.settings.tls_port and self.settings.tls_files is not None:
            context = tls.acceptor(
                self.settings.tls_files, require_certificate=self.settings.tls_require_certificate
            )
            self._listen(self.settings.tls_port, context)
        for thread in self._threads:
            thread.start()
        self._reporter.start()
        return port

    def _listen(self, port: int, context: ssl.SSLContext | None) -> int:
        family = socket.AF_INET6 if ":" in self.settings.bind else socket.AF_INET
        listener = socket.create_server((self.settings.bind, port), family=family, backlog=_BACKLOG)
        self._listeners.append(listener)
        name = "listener" if context is None else "tls-listener"
        self._threads.append(
            threading.Thread(target=self._accept, args=(listener, context), name=name, daemon=True)
        )
        return int(listener.getsockname()[1])

    def reconfigure(self, settings: ScpSettings) -> None:
        """Use other settings for associations to come; the address that is listened on stays."""
        self.settings = settings
        self._reporter.settings = settings

    def stop(self) -> None:
        """Stop listening, let messages under way finish, end every association."""
        self._stopping.set()
        self._reporter.stop()
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for thread in self._threads:
            thread.join()
        deadline = time.monotonic() + self.settings.shutdown_timeout
        while True:
            with self._lock:
                connections = list(self._connections)
            if not connections:
                return
            late = time.monotonic() > deadline
            for connection in connections:
                association = connection.association
                if late or association is None or association.idle.is_set():
                    # Wakes the thread that waits in recv; it then sees that the node is stopping.
                    with contextlib.suppress(OSError):
                        connection.layer.socket.shutdown(socket.SHUT_RD)
            if late and time.monotonic() > deadline + 5:
                return
            time.sleep(0.02)

    @property
    def n_connections(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    # One thread per listener

    def _accept(self, listener: socket.socket, context: ssl.SSLContext | None) -> None:
        while not self._stopping.is_set():
            try:
                accepted, address = listener.accept()
            except OSError as error:
                if self._stopping.is_set():
                    return
                logger.error("cannot accept connections", problem=str(error))
                time.sleep(0.2)  # out of file descriptors: let some associations end
                continue
            with self._lock:
                self._serial += 1
                serial = self._serial
            thread = threading.Thread(
                target=self._serve_connection,
                args=(accepted, context, str(address[0]), serial),
                name=f"association-{serial}",
                daemon=True,
            )
            try:
                thread.start()
            except RuntimeError as error:  # no more threads
                logger.error("cannot serve a connection", problem=str(error))
                accepted.close()

    # One thread per connection

    def _serve_connection(
        self, accepted: socket.socket, context: ssl.SSLContext | None, host: str, serial: int
    ) -> None:
        settings = self.settings
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(association=serial, host=host)
        if context is not None:
            try:
                accepted = tls.wrap(accepted, context, settings.association_timeout)
            except RefusedError as error:
                logger.warning("connection refused", problem=str(error))
                return
        connection = _Connection(
            UpperLayer(accepted, min(settings.pdu_timeout, settings.association_timeout))
        )
        with self._lock:
            self._connections.add(connection)
        try:
            association = self._negotiate(connection, host, settings)
            if association is not None:
                self._serve(association)
        except ProtocolError as error:
            logger.warning("aborting: the peer breaks the protocol", problem=str(error), reason=error.reason)
            # PS3.8 table 9-10: before there is an association the abort is the service user's (AA-1).
            connection.layer.send_abort(error.reason, by_user=connection.association is None)
        except RefusedError as error:
            logger.warning("association rejected", problem=str(error))
        except (AbortedError, ConnectionLostError) as error:
            if self._stopping.is_set():
                connection.layer.send_abort(_SHUTDOWN_REASON)
            else:
                logger.info("association ended", problem=str(error))
        except Exception:
            logger.exception("aborting: internal error")
            connection.layer.send_abort(by_user=True)
        finally:
            connection.layer.close()
            with self._lock:
                self._connections.discard(connection)

    def _negotiate(self, connection: _Connection, host: str, settings: ScpSettings) -> Association | None:
        """Return the established association, or None if it was rejected."""
        layer = connection.layer
        request = negotiation.read_request(layer, settings.association_timeout)
        calling = str(request.calling_ae_title or "").strip()
        called = str(request.called_ae_title or "").strip()
        structlog.contextvars.bind_contextvars(calling_ae=calling)
        refusal = self._refusal(request, calling, called, host, settings) or self._admit(connection, settings)
        if refusal is not None:
            why, advice = refusal
            logger.warning("association rejected", called_ae=called, advice=advice)
            negotiation.reject(layer, why)
            return None
        negotiated = negotiation.accept(
            layer,
            request,
            lambda uid: _supported(uid, settings),
            settings.max_pdu,
            settings.preferred_by(calling),
        )
        layer.pdu_timeout = settings.pdu_timeout
        _log_negotiated(negotiated)
        association = Association(layer, negotiated, host, settings.idle_timeout)
        connection.association = association
        return association

    def _refusal(
        self, request: object, calling: str, called: str, host: str, settings: ScpSettings
    ) -> tuple[tuple[int, int, int], str] | None:
        """Return (result, source, reason) and advice for the admin if the association is to be rejected."""
        if str(getattr(request, "application_context_name", "")) != negotiation.APPLICATION_CONTEXT:
            return negotiation.REJECT_APPLICATION_CONTEXT, "the application context is not DICOM's"
        if settings.allow and not any(caller.matches(calling, host) for caller in settings.allow):
            return (
                negotiation.REJECT_CALLING_AE,
                f"to accept it, add to dicom.allow: {{ae_title: {calling}, networks: [{host}/32]}}",
            )
        if settings.require_called_ae and called != settings.ae_title:
            return (
                negotiation.REJECT_CALLED_AE,
                f"the caller must name {settings.ae_title}; or set dicom.require_called_ae: false",
            )
        return None

    def _admit(
        self, connection: _Connection, settings: ScpSettings
    ) -> tuple[tuple[int, int, int], str] | None:
        """Count a connection as an association, or return why not as `_refusal` does."""
        with self._lock:
            admitted = sum(1 for c in self._connections if c.admitted)
            connection.admitted = admitted < settings.max_associations
        if connection.admitted:
            return None
        return (
            negotiation.REJECT_LOCAL_LIMIT,
            f"{admitted} associations are open; raise dicom.max_associations",
        )

    def _serve(self, association: Association) -> None:
        """Serve messages until the association ends."""
        services: dict[int, Callable[[Context, Command], None]] = {
            C_STORE_RQ: lambda context, command: (
                serve_blob if context.abstract_syntax == BLOB_STORAGE else serve_store
            )(self.archive, association, context, command),
            C_ECHO_RQ: lambda context, command: serve_echo(association, context, command),
            N_ACTION_RQ: lambda context, command: serve_action(
                self.archive, association, context, command, self.settings
            ),
            C_FIND_RQ: lambda context, command: serve_find(
                self.archive, association, context, command, self.settings
            ),
            C_GET_RQ: lambda context, command: serve_get(
                self.archive, association, context, command, self.settings
            ),
            C_MOVE_RQ: lambda context, command: serve_move(
                self.archive, association, context, command, self.settings, self._destinations
            ),
        }
        try:
            while not self._stopping.is_set():
                association.idle.set()
                context, command = association.receive()
                field = number(command, COMMAND_FIELD)
                if field in services:
                    services[field](context, command)
                elif field == C_CANCEL_RQ:
                    pass  # came after the last response of what it cancels
                elif field & RESPONSE:  # we wait for none; answering it could go back and forth for ever
                    association.skip_data_set()
                    logger.warning("response to no request of ours", response=describe(command))
                else:
                    association.skip_data_set()
                    logger.warning("request not supported", request=describe(command))
                    association.send(context, response_to(command, UNRECOGNISED_OPERATION))
        except ReleasedError:
            association.layer.send_release_response()
            logger.info("association released")
            return
        association.layer.send_abort(_SHUTDOWN_REASON)


def _supported(abstract_syntax: str, settings: ScpSettings) -> PresentationContext | None:
    if abstract_syntax == BLOB_STORAGE and not settings.exchange_compressed:
        return None
    return supported_context(abstract_syntax, settings.accept_private_sop_classes)


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _log_negotiated(negotiated: Negotiated) -> None:
    logger.info(
        "association accepted",
        called_ae=negotiated.called_ae,
        contexts=len(negotiated.contexts),
        refused=len(negotiated.refused),
        implementation=negotiated.peer_implementation,
    )
    for refused in negotiated.refused:
        logger.warning(
            "presentation context refused",
            abstract_syntax=refused.abstract_syntax,
            transfer_syntaxes=list(refused.transfer_syntaxes),
            advice=_NOT_ACCEPTED.get(refused.result, f"result {refused.result}"),
        )
