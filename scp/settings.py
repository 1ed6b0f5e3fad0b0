"""What the DICOM side of the node needs to know from the configuration."""

import json
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Literal

from dcmpress.scp.tls import TlsFiles


@dataclass(frozen=True)
class Peer:
    """An application entity that C-MOVE may send to."""

    ae_title: str
    host: str
    port: int
    tls: bool = False
    tls_name: str = ""
    """Name in its certificate; empty: `host`."""
    associations: int = 1
    """That are open to it at a time for a C-MOVE."""
    transfer_syntaxes: tuple[str, ...] = ()
    """In which it wants instances, the best first (`storage.targets`); none: `ScpSettings`'s."""


def _address(host: str) -> str:
    """Return a peer's address without the zone that IPv6 may add."""
    return host.partition("%")[0]


@dataclass(frozen=True)
class AllowedCaller:
    """Who may open an association: an AE title ("*": any) from certain networks (none: from anywhere)."""

    ae_title: str
    networks: tuple[IPv4Network | IPv6Network, ...] = ()

    @staticmethod
    def entry(ae_title: str, host: str) -> str:
        """Return what `dicom.allow` needs to let in this caller and nobody else."""
        return f"{{ae_title: {json.dumps(ae_title)}, networks: [{ip_network(_address(host))}]}}"

    def matches(self, ae_title: str, host: str) -> bool:
        """Tell whether a caller is this one."""
        if self.ae_title not in ("*", ae_title):
            return False
        address = ip_address(_address(host))
        mapped = getattr(address, "ipv4_mapped", None)
        return not self.networks or any((mapped or address) in network for network in self.networks)


@dataclass(frozen=True)
class ScpSettings:
    """Settings of the DICOM listener; times in seconds, sizes in bytes."""

    ae_title: str = "DCMPRESS"
    bind: str = "127.0.0.1"
    port: int = 11112
    peers: tuple[Peer, ...] = ()
    transfer_syntaxes: tuple[str, ...] = ()
    """Preferences for receivers that have none of their own."""
    allow: tuple[AllowedCaller, ...] = ()
    """Empty: anyone who can reach the port."""
    require_called_ae: bool = False
    accept_private_sop_classes: bool = True
    tls_port: int = 0
    """Listens there for TLS as well; 0: nowhere."""
    tls_files: TlsFiles | None = None
    """Our certificate, for the TLS port and for peers; its authorities judge theirs."""
    tls_require_certificate: bool = True
    exchange_compressed: bool = True
    """Offer blobs to other nodes, and take them, instead of data sets."""
    max_associations: int = 100
    max_pdu: int = 131072
    association_timeout: float = 30.0
    """From the connection to the end of negotiation."""
    idle_timeout: float = 300.0
    """Between two messages."""
    pdu_timeout: float = 60.0
    """For one PDU, and between the PDUs of a message."""
    response_timeout: float = 120.0
    """For the answer to a C-STORE that we send."""
    move_retry_seconds: float = 30.0
    """For which the destination of a C-MOVE is called again if it does not answer."""
    shutdown_timeout: float = 30.0
    """For messages under way when the node is asked to stop."""
    find_limit: int = 0
    """Matches that one C-FIND returns at most; 0: all."""
    commitment_policy: Literal["durable", "verified"] = "durable"
    commitment_delay: float = 1.0
    """Between looks for reports to send."""
    commitment_hours: float = 72.0
    """After which a report that does not get through is given up."""
    known_peers: dict[str, Peer] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.known_peers.update({peer.ae_title: peer for peer in self.peers})

    def preferred_by(self, ae_title: str) -> tuple[str, ...]:
        """Return the transfer syntaxes to prefer for a receiver, the best first; none: as stored."""
        peer = self.known_peers.get(ae_title)
        return (peer.transfer_syntaxes if peer else ()) or self.transfer_syntaxes
