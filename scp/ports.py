"""The ports that the node listens on: bound once, accepted on by as many processes as serve."""

import contextlib
import errno
import resource
import socket
import ssl
from dataclasses import dataclass

from dcmpress.scp import tls
from dcmpress.scp.settings import ScpSettings

_BACKLOG = 1024
"""Connections that the kernel keeps for us; a burst of modalities must not see refusals."""

_MOST_FILES = 1 << 16
"""Open files that a process asks for: connections that say nothing must not use up those of the spool."""


@dataclass(frozen=True)
class Port:
    """A listening socket."""

    socket: socket.socket
    is_tls: bool

    @property
    def number(self) -> int:
        """The TCP port."""
        return int(self.socket.getsockname()[1])

    @property
    def name(self) -> str:
        """For the thread that accepts here."""
        return "tls-listener" if self.is_tls else "listener"

    def tls_context(self, settings: ScpSettings) -> ssl.SSLContext | None:
        """Return the context of its handshakes, or None if it is a plain port.

        Raises
        ------
        OSError
            As `tls.acceptor` does.
        """
        if not self.is_tls or settings.tls_files is None:
            return None
        return tls.acceptor(settings.tls_files, require_certificate=settings.tls_require_certificate)

    def listen(self) -> None:
        """Let peers connect."""
        self.socket.listen(_BACKLOG)

    def close(self) -> None:
        """Stop listening; threads of any process that wait in `accept` are woken."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def bind(settings: ScpSettings) -> list[Port]:
    """Take the plain port and, if there is one, the TLS port; peers connect once it is listened on.

    Raises
    ------
    OSError
        If a port is taken, or a certificate cannot be read; its text says which.
    """
    family = socket.AF_INET6 if ":" in settings.bind else socket.AF_INET
    wanted = [(settings.port, False)]
    if settings.tls_port and settings.tls_files is not None:
        wanted.append((settings.tls_port, True))
    ports: list[Port] = []
    try:
        for number, is_tls in wanted:
            taken = socket.socket(family)
            ports.append(Port(taken, is_tls))
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                taken.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                taken.bind((settings.bind, number))
            except OSError as error:
                hint = ": is a node running already?" if error.errno == errno.EADDRINUSE else ""
                raise OSError(
                    f"cannot listen on {settings.bind} port {number}: {error.strerror}{hint}"
                ) from None
        for port in ports:
            port.tls_context(settings)
    except BaseException:
        for port in ports:
            port.socket.close()
        raise
    return ports


def raise_file_limit() -> None:
    """Let this process open as many files as it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
