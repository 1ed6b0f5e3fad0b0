"""The DICOM listener: one thread per association, blocked in its own socket while there is nothing to do."""

import errno
import ssl
import threading
import time
from collections.abc import Callable, Sequence

import structlog
from pydicom.uid import UID_dictionary as REGISTERED_UIDS
from pynetdicom.presentation import PresentationContext

from dcmpress.scp import negotiation, tls
from dcmpress.scp.association import Association, describe
from dcmpress.scp.census import Census
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
from dcmpress.scp.commitment import ReportsHere, serve_action
from dcmpress.scp.compressed import serve_blob
from dcmpress.scp.connections import Connection, Connections
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
from dcmpress.scp.negotiation import Context, Negotiated, RefusedContext
from dcmpress.scp.ports import Port, bind, raise_file_limit
from dcmpress.scp.query import serve_find
from dcmpress.scp.retrieve import serve_get
from dcmpress.scp.settings import AllowedCaller, ScpSettings
from dcmpress.scp.status import UNRECOGNISED_OPERATION
from dcmpress.scp.store import serve_store
from dcmpress.scp.upper_layer import UpperLayer
from dcmpress.storage.archive import Archive

_SHUTDOWN_REASON = 0
_ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
"""Result of a presentation context (PS3.8 table 9-18)."""

_NOT_ACCEPTED = {
    1: "roles do not fit: the requestor wants to be SCP of a service that only we offer",
    4: "no transfer syntax in common",
}


class DicomServer:
    """Listens on one port and serves an archive.

    Parameters
    ----------
    archive : Archive
    settings : ScpSettings
        `reconfigure` swaps them while associations go on under the old ones.
    census : Census, optional
        Counts what other processes serve on the same port as well.
    """

    def __init__(self, archive: Archive, settings: ScpSettings, census: Census | None = None) -> None:
        self.archive = archive
        self.settings = settings
        self._connections = Connections(census or Census.create(1))
        self._stopping = threading.Event()
        self._ports: list[Port] = []
        self._tls: ssl.SSLContext | None = None
        """Of the TLS port, for handshakes to come."""
        self._threads: list[threading.Thread] = []
        self._destinations = Destinations()

    def start(self, ports: Sequence[Port] | None = None) -> int:
        """Begin to accept associations; return the port (chosen by the system if it was 0).

        Parameters
        ----------
        ports : sequence of Port, optional
            Listened on already, and perhaps by other processes too; None: the settings say where.
        """
        raise_file_limit()
        self._ports = list(bind(self.settings) if ports is None else ports)
        for port in self._ports:
            if ports is None:
                port.listen()
            self._tls = port.tls_context(self.settings) or self._tls
            self._threads.append(
                threading.Thread(target=self._accept, args=(port,), name=port.name, daemon=True)
            )
        for thread in self._threads:
            thread.start()
        return self._ports[0].number

    def reconfigure(self, settings: ScpSettings) -> None:
        """Use other settings for associations to come; the address that is listened on stays.

        The files of the TLS port are read again: a certificate that was renewed needs no restart.
        """
        for port in self._ports:
            try:
                self._tls = port.tls_context(settings) or self._tls
            except OSError as error:
                logger.error("certificate not reloaded", problem=str(error))
        self.settings = settings

    def stop(self) -> None:
        """Stop listening, let messages under way finish, end every association."""
        self._stopping.set()
        for port in self._ports:
            port.close()
        for thread in self._threads:
            thread.join()
        deadline = time.monotonic() + self.settings.shutdown_timeout
        while self._connections.end(late=time.monotonic() > deadline):
            if time.monotonic() > deadline + 5:
                return
            time.sleep(0.02)

    @property
    def n_connections(self) -> int:
        """Connections that are open now."""
        return len(self._connections)

    # One thread per listener

    def _accept(self, port: Port) -> None:
        while not self._stopping.is_set():
            try:
                accepted, address = port.socket.accept()
            except OSError as error:
                if self._stopping.is_set() or error.errno == errno.EINVAL:
                    return  # EINVAL: another process has shut the common socket down, as the node stops
                logger.error("cannot accept connections", problem=str(error))
                time.sleep(0.2)  # out of file descriptors: let some associations end
                continue
            connection = self._connections.open(accepted)
            thread = threading.Thread(
                target=self._serve_connection,
                args=(connection, self._tls if port.is_tls else None, str(address[0])),
                name=f"association-{connection.serial}",
                daemon=True,
            )
            try:
                thread.start()
            except RuntimeError as error:  # no more threads
                logger.error("cannot serve a connection", problem=str(error))
                self._connections.close(connection)

    # One thread per connection

    def _serve_connection(self, connection: Connection, context: ssl.SSLContext | None, host: str) -> None:
        settings = self.settings
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(association=connection.serial, host=host)
        try:
            self._open(connection, context, host, settings)
        except Exception:
            logger.exception("aborting: internal error")
            if connection.layer is not None:
                connection.layer.send_abort(by_user=True)
        finally:
            self._connections.close(connection)

    def _open(
        self, connection: Connection, context: ssl.SSLContext | None, host: str, settings: ScpSettings
    ) -> None:
        """Open the association, serve it and see to its end."""
        if context is not None:
            try:
                connection.endpoint = tls.wrap(
                    connection.endpoint, context, settings.association_timeout, on_wrapped=connection.replace
                )
            except RefusedError as error:
                if not connection.dropped:
                    logger.warning("connection refused", problem=str(error))
                return
        layer = connection.layer = UpperLayer(
            connection.endpoint, min(settings.pdu_timeout, settings.association_timeout)
        )
        try:
            association = self._negotiate(connection, layer, host, settings)
            if association is not None:
                self._serve(association)
        except ProtocolError as error:
            logger.warning("aborting: the peer breaks the protocol", problem=str(error), reason=error.reason)
            # PS3.8 table 9-10: before there is an association the abort is the service user's (AA-1).
            layer.send_abort(error.reason, by_user=connection.association is None)
        except RefusedError as error:
            logger.warning("association rejected", problem=str(error))
        except (AbortedError, ConnectionLostError) as error:
            if self._stopping.is_set():
                layer.send_abort(_SHUTDOWN_REASON)
            elif not connection.dropped:
                logger.info("association ended", problem=str(error))

    def _negotiate(
        self, connection: Connection, layer: UpperLayer, host: str, settings: ScpSettings
    ) -> Association | None:
        """Return the established association, or None if it was rejected."""
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
                f"to accept it, add to dicom.allow: {AllowedCaller.entry(calling, host)}",
            )
        if settings.require_called_ae and called != settings.ae_title:
            return (
                negotiation.REJECT_CALLED_AE,
                f"the caller must name {settings.ae_title}; or set dicom.require_called_ae: false",
            )
        return None

    def _admit(
        self, connection: Connection, settings: ScpSettings
    ) -> tuple[tuple[int, int, int], str] | None:
        """Count a connection as an association, or return why not as `_refusal` does."""
        if self._connections.admit(connection, settings.max_associations):
            return None
        return (
            negotiation.REJECT_LOCAL_LIMIT,
            f"{settings.max_associations} associations are open; raise dicom.max_associations",
        )

    def _serve(self, association: Association) -> None:
        """Serve messages until the association ends."""
        reports = ReportsHere(self.archive, association, self.settings)
        services: dict[int, Callable[[Context, Command], None]] = {
            C_STORE_RQ: lambda context, command: (
                serve_blob if context.abstract_syntax == BLOB_STORAGE else serve_store
            )(self.archive, association, context, command),
            C_ECHO_RQ: lambda context, command: serve_echo(association, context, command),
            N_ACTION_RQ: lambda context, command: serve_action(
                self.archive, association, context, command, self.settings, reports
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
                elif field & RESPONSE:  # to nothing else; answering it could go back and forth for ever
                    association.skip_data_set()
                    if not reports.answered(command):
                        logger.warning("response to no request of ours", response=describe(command))
                else:
                    association.skip_data_set()
                    logger.warning("request not supported", request=describe(command))
                    association.send(context, response_to(command, UNRECOGNISED_OPERATION))
                reports.send_next()
        except ReleasedError:
            association.layer.send_release_response()
            logger.info("association released")
            return
        association.layer.send_abort(_SHUTDOWN_REASON)


def _supported(abstract_syntax: str, settings: ScpSettings) -> PresentationContext | None:
    if abstract_syntax == BLOB_STORAGE and not settings.exchange_compressed:
        return None
    return supported_context(abstract_syntax, settings.accept_private_sop_classes)


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
            advice=_advice(refused),
        )


def _advice(refused: RefusedContext) -> str:
    """Say why a presentation context is refused, and what can be done."""
    if refused.result != _ABSTRACT_SYNTAX_NOT_SUPPORTED:
        return _NOT_ACCEPTED.get(refused.result, f"result {refused.result}")
    registered = REGISTERED_UIDS.get(refused.abstract_syntax)
    if registered is not None:
        return f"this node does not offer {registered[0]}"
    return "abstract syntax not supported: if it is a private storage class, set dicom.accept_private_sop_classes: true"
