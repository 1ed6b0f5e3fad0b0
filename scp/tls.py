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
        If a file cannot be read, or holds no certificate or key; its text names the file.
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
        _load_authorities(context, authorities)
    return context


def _harden(context: ssl.SSLContext, files: TlsFiles) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    _readable(files.certificate)
    _readable(files.key)
    try:
        # Nobody is there to type a pass phrase: an empty one does not open the key.
        context.load_cert_chain(files.certificate, files.key, password=lambda: "")
    except (OSError, ValueError) as error:
        raise OSError(
            f"{files.certificate} and {files.key}: no certificate with its key, in PEM and without a pass phrase"
            f" ({_reason(error)})"
        ) from None
    if files.authorities is not None:
        _load_authorities(context, files.authorities)


def _load_authorities(context: ssl.SSLContext, authorities: Path) -> None:
    _readable(authorities)
    try:
        context.load_verify_locations(authorities)
    except OSError as error:
        raise OSError(f"{authorities}: no certificates in PEM ({_reason(error)})") from None


def _readable(path: Path) -> None:
    """Raise an OSError that names the file; OpenSSL's do not."""
    try:
        path.read_bytes()
    except OSError as error:
        raise OSError(f"{path}: {error.strerror}") from None


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error)


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
