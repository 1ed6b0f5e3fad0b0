"""What is known about a data set at the moment it is safe in the spool."""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Received:
    """One received data set: the facts of its receipt, none of which need the data set to be read.

    Attributes
    ----------
    sop_class_uid, sop_instance_uid : as the request (or the file meta information) names them
    transfer_syntax_uid : the syntax of the bytes as they were on the wire
    size : bytes of the data set, without preamble and file meta information
    sha256 : digest of those bytes, 32 bytes
    spool_name : file name in the spool
    received_at : when the last byte had arrived; aware, UTC
    calling_ae, called_ae : AE titles of the association, empty for an import
    remote_host : address of the sender, empty for an import
    came_as : what was received, if the bytes are another encoding of that which is kept in its place
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    size: int
    sha256: bytes
    spool_name: str
    received_at: datetime
    calling_ae: str = ""
    called_ae: str = ""
    remote_host: str = ""
    came_as: "Form | None" = None


@dataclass(frozen=True, slots=True)
class Form:
    """One encoding of a data set.

    Attributes
    ----------
    transfer_syntax_uid : of the data set
    size : in bytes
    sha256 : 32 bytes
    """

    transfer_syntax_uid: str
    size: int
    sha256: bytes
