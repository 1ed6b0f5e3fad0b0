"""C-ECHO (PS3.4 Annex A), both ways."""

import time

from dcmpress.scp import negotiation
from dcmpress.scp.association import Association
from dcmpress.scp.commands import (
    AFFECTED_SOP_CLASS_UID,
    C_ECHO_RQ,
    COMMAND_DATA_SET_TYPE,
    COMMAND_FIELD,
    MESSAGE_ID,
    NO_DATA_SET,
    STATUS,
    Command,
    number,
    response_to,
)
from dcmpress.scp.contexts import QUERY_SYNTAXES, VERIFICATION
from dcmpress.scp.errors import RefusedError
from dcmpress.scp.log import logger
from dcmpress.scp.negotiation import Context
from dcmpress.scp.settings import Peer
from dcmpress.scp.status import SUCCESS
from dcmpress.scp.tls import TlsFiles
from dcmpress.scp.upper_layer import UpperLayer


def serve_echo(association: Association, context: Context, command: Command) -> None:
    """Answer a C-ECHO."""
    association.skip_data_set()
    association.send(context, response_to(command, SUCCESS))
    logger.info("echo")


def echo(peer: Peer, calling_ae: str, timeout: float = 5.0, tls_files: TlsFiles | None = None) -> float:
    """Send a C-ECHO to a peer; return the seconds that it took to answer.

    Raises
    ------
    NetworkError
        If it cannot be reached, rejects the association or does not answer with success.
    """
    layer = UpperLayer(negotiation.connect(peer, timeout, tls_files), timeout)
    try:
        proposed = [(VERIFICATION, QUERY_SYNTAXES[:2])]
        negotiated = negotiation.request(layer, calling_ae, peer.ae_title, proposed, 16384, timeout)
        context = next(iter(negotiated.contexts.values()), None)
        if context is None:
            raise RefusedError(f"{peer.ae_title} does not take part in verification")
        association = Association(layer, negotiated, peer.host, timeout)
        started = time.perf_counter()
        association.send(
            context,
            {
                AFFECTED_SOP_CLASS_UID: VERIFICATION,
                COMMAND_FIELD: C_ECHO_RQ,
                MESSAGE_ID: 1,
                COMMAND_DATA_SET_TYPE: NO_DATA_SET,
            },
        )
        _, answer = association.receive()
        if number(answer, STATUS, 0x0110) != SUCCESS:
            raise RefusedError(f"{peer.ae_title} answers with status {number(answer, STATUS):04X}")
        took = time.perf_counter() - started
        association.release()
        return took
    finally:
        layer.close()
