"""TLS for associations (PS3.15 Annex B, the profiles after BCP 195): 1.2 or newer, forward secrecy, both ways.

The handshake happens in the connection's own thread with a deadline, so a silent client holds up nobody.
"""

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dcmpress.scp.errors import RefusedError

_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM"
"""For TLS 1.2: what RFC 9325 section 4.2 recommends, and DHE for older devices."""


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of one side."""

    certificate: Path
    key: Path
    authorities: Path | None = None
    """Certificates that the other side's must lead to."""


def acceptor(files: TlsFiles, *, require_certificate: bool) -> ssl.SSLContext:
    """Return the context of a listener; with `require_certificate` callers must show one (mutual TLS).

    Raises
    ------
    OSError
        If a file cannot be read, or holds no certificate or key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context, files)
    if require_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def requestor(files: TlsFiles | None, authorities: Path | None) -> ssl.SSLContext:
    """Return the context with which we call a peer: its certificate must lead to `authorities`.

    Raises
    ------
    OSError
        As `acceptor` does.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if files is not None:
        _harden(context, files)
    else:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
    if authorities is not None:
        context.load_verify_locations(authorities)
    return context


def _harden(context: ssl.SSLContext, files: TlsFiles) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.load_cert_chain(files.certificate, files.key)
    if files.authorities is not None:
        context.load_verify_locations(files.authorities)


def wrap(
    connection: socket.socket,
    context: ssl.SSLContext,
    timeout: float,
    server_hostname: str | None = None,
    on_wrapped: Callable[[ssl.SSLSocket], None] = lambda _: None,
) -> ssl.SSLSocket:
    """Do the handshake on a connected socket; as the listener unless `server_hostname` names the peer.

    `on_wrapped` gets the socket before the handshake, for who may want to end that.

    Raises
    ------
    RefusedError
        If the other side's certificate is wrong or missing, no cipher is common, or it is too slow.
        The connection is closed.
    """
    connection.settimeout(timeout)
    try:
        connection = wrapped = context.wrap_socket(
            connection,
            server_side=server_hostname is None,
            server_hostname=server_hostname,
            do_handshake_on_connect=False,
        )
        on_wrapped(wrapped)
        wrapped.do_handshake()
        return wrapped
    except (OSError, ValueError) as error:
        connection.close()
        reason = getattr(error, "verify_message", "") or getattr(error, "reason", "") or str(error)
        raise RefusedError(f"TLS handshake failed: {reason}") from None
