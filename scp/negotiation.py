"""Association negotiation (PS3.8 section 7.1, PS3.7 Annex D), as acceptor and as requestor.

PDUs, user information items, role selection and the choice of transfer syntax are pynetdicom's; this
module gives it bytes and takes bytes, without its threads and queues.
"""

import socket
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

from pydicom.uid import UID
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RJ, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import (
    A_ASSOCIATE,
    ImplementationClassUIDNotification,
    ImplementationVersionNameNotification,
    MaximumLengthNotification,
    SCP_SCU_RoleSelectionNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.presentation import PresentationContext, negotiate_as_acceptor, negotiate_as_requestor

from dcmpress.scp import tls, upper_layer
from dcmpress.scp.contexts import QUERY_SYNTAXES
from dcmpress.scp.errors import AbortedError, ProtocolError, RefusedError
from dcmpress.scp.extended import QueryOptions, granted
from dcmpress.scp.settings import Peer
from dcmpress.scp.tls import TlsFiles
from dcmpress.scp.upper_layer import UpperLayer
from dcmpress.storage.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dcmpress.storage.targets import choice_at_negotiation

APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"

PROTOCOL_VERSION = 1
"""Bit 0 of the protocol version is the only one to test (PS3.8 table 9-11)."""

REJECTED_TRANSIENT = 2
"""Result of A-ASSOCIATE-RJ (PS3.8 table 9-21)."""

REJECT_PROTOCOL_VERSION = (1, 2, 2)
REJECT_APPLICATION_CONTEXT = (1, 1, 2)
REJECT_CALLING_AE = (1, 1, 3)
REJECT_CALLED_AE = (1, 1, 7)
REJECT_LOCAL_LIMIT = (2, 3, 2)
"""(result, source, reason) of A-ASSOCIATE-RJ, PS3.8 table 9-21."""


_FIXED = 68
"""Bytes of an A-ASSOCIATE-RQ before its items."""

_TITLES = (
    ("called", slice(10, 26), REJECT_CALLED_AE),
    ("calling", slice(26, 42), REJECT_CALLING_AE),
)
"""Where the AE titles stand in an A-ASSOCIATE-RQ (PS3.8 table 9-11), and what one that is none is rejected with."""


@dataclass(frozen=True)
class Context:
    """An accepted presentation context."""

    context_id: int
    abstract_syntax: str
    transfer_syntax: str
    we_are_scu: bool = False
    """We may send requests of this SOP class."""


@dataclass(frozen=True)
class RefusedContext:
    """A presentation context that was proposed and not accepted."""

    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]
    result: int
    """PS3.8 table 9-18: 1 user rejection, 3 abstract syntax, 4 transfer syntaxes not supported."""


@dataclass
class Negotiated:
    """What both sides agreed on."""

    calling_ae: str
    called_ae: str
    contexts: dict[int, Context] = field(default_factory=dict)
    refused: list[RefusedContext] = field(default_factory=list)
    query_options: dict[str, QueryOptions] = field(default_factory=dict)
    """SOP class -> how its keys are to be taken; without an entry, as the standard has it."""
    peer_implementation: str = ""
    peer_is_a_node: bool = False
    """The peer is a dcmpress node, as its implementation class UID says."""


def read_request(layer: UpperLayer, timeout: float) -> A_ASSOCIATE:
    """Return the A-ASSOCIATE request that a peer must begin with.

    Raises
    ------
    ProtocolError
        If it sends anything else, or something that is not one.
    RefusedError
        If it speaks another version of the protocol, or an AE title is none: it has been rejected.
    """
    kind, content = layer.read_pdu(timeout)
    if kind == upper_layer.ABORT:
        raise AbortedError("aborted by the peer before the association")
    if kind != upper_layer.ASSOCIATE_RQ:
        raise ProtocolError(f"PDU of type {kind:#04x} before A-ASSOCIATE-RQ", ProtocolError.UNEXPECTED_PDU)
    if len(content) < _FIXED:
        raise ProtocolError(f"A-ASSOCIATE-RQ of {len(content)} bytes")
    raw = bytearray(_with_header(kind, content))
    refusals = []
    for side, place, why in _TITLES:
        title = bytes(raw[place]).rstrip(b" \0")  # some senders fill up with NUL
        if (
            not (title.isascii() and title.decode("latin-1").isprintable() and title.strip())
            or b"\\" in title
        ):
            refusals.append((why, f"the {side} AE title {title!r} is none: set one on the peer"))
            title = b"?"
        raw[place] = title.ljust(16)
    pdu = A_ASSOCIATE_RQ()
    try:
        pdu.decode(bytes(raw))
        primitive: A_ASSOCIATE = pdu.to_primitive()
        contexts = primitive.presentation_context_definition_list
        if refusals and not primitive.application_context_name:
            raise ValueError("no application context")
    except Exception as error:  # pynetdicom raises whatever the bytes provoke
        raise ProtocolError(f"A-ASSOCIATE-RQ cannot be decoded: {error!r}") from None
    if len({c.context_id for c in contexts}) != len(contexts):
        raise ProtocolError("A-ASSOCIATE-RQ has a repeated presentation context")
    if not pdu.protocol_version & PROTOCOL_VERSION:
        reject(layer, REJECT_PROTOCOL_VERSION)
        raise RefusedError(f"protocol version {pdu.protocol_version:#06x} is not ours")
    for why, problem in refusals:
        reject(layer, why)
        raise RefusedError(problem)
    return primitive


def _with_header(kind: int, content: memoryview) -> bytes:
    return bytes([kind, 0]) + len(content).to_bytes(4, "big") + content


def accept(
    layer: UpperLayer,
    request: A_ASSOCIATE,
    supported: Callable[[str], PresentationContext | None],
    max_pdu: int,
    preferred: Sequence[str] = (),
) -> Negotiated:
    """Answer a request with A-ASSOCIATE-AC; `supported` tells what we do for an abstract syntax.

    In storage classes of which the requestor is to be the SCP, `preferred` are the transfer syntaxes that
    it is to be sent.
    """
    by_id = {c.context_id: c for c in request.presentation_context_definition_list}
    proposed = [c for c in by_id.values() if c.abstract_syntax and c.transfer_syntax]
    ours = {c.abstract_syntax: s for c in proposed if (s := supported(str(c.abstract_syntax))) is not None}
    roles: dict[UID, tuple[bool, bool]] = {}
    extended: list[SOPClassExtendedNegotiation] = []
    identity: UserIdentityNegotiation | None = None
    for item in request.user_information:
        if isinstance(item, SCP_SCU_RoleSelectionNegotiation):
            roles[item.sop_class_uid] = (bool(item.scu_role), bool(item.scp_role))
        elif isinstance(item, SOPClassExtendedNegotiation):
            extended.append(item)
        elif isinstance(item, UserIdentityNegotiation):
            identity = item
    for c in proposed:
        if roles.get(c.abstract_syntax, (False, False))[1] and c.abstract_syntax in ours:
            ours[c.abstract_syntax] = _in_order(ours[c.abstract_syntax], c, preferred)
    results, role_replies = negotiate_as_acceptor(proposed, list(ours.values()), roles)
    results += [_refusal_of(c) for c in by_id.values() if not (c.abstract_syntax and c.transfer_syntax)]

    reply = A_ASSOCIATE()
    reply.application_context_name = UID(APPLICATION_CONTEXT)
    reply.calling_ae_title = request.calling_ae_title
    reply.called_ae_title = request.called_ae_title
    reply.result = 0x00
    reply.result_source = 0x01
    reply.presentation_context_definition_results_list = results
    items = [*_own_items(max_pdu), *role_replies]
    options: dict[str, QueryOptions] = {}
    for item in extended:
        sop_class = str(item.sop_class_uid)
        information = granted(sop_class, item.service_class_application_information or b"")
        if information is not None:
            answer = SOPClassExtendedNegotiation()
            answer.sop_class_uid = item.sop_class_uid
            answer.service_class_application_information = information
            items.append(answer)
            options[sop_class] = QueryOptions.of(information)
    if identity is not None and identity.positive_response_requested:
        confirmed = UserIdentityNegotiation()
        confirmed.server_response = b""
        items.append(confirmed)
    reply.user_information = items
    layer.peer_max_pdu = request.maximum_length_received or 0
    layer.send(A_ASSOCIATE_AC(reply).encode())

    negotiated = Negotiated(
        _title(request.calling_ae_title), _title(request.called_ae_title), query_options=options
    )
    for result in results:
        offered = by_id[result.context_id]
        if result.result == 0:
            negotiated.contexts[result.context_id] = Context(
                result.context_id,
                str(result.abstract_syntax),
                str(result.transfer_syntax[0]),
                bool(result.as_scu),
            )
        else:
            negotiated.refused.append(
                RefusedContext(
                    str(result.abstract_syntax or ""), tuple(map(str, offered.transfer_syntax)), result.result
                )
            )
    negotiated.peer_implementation = _implementation(request)
    return negotiated


def _in_order(
    ours: PresentationContext, proposed: PresentationContext, preferred: Sequence[str]
) -> PresentationContext:
    """Return what we support with the transfer syntaxes first in which the requestor is to be sent images."""
    first = choice_at_negotiation(
        str(ours.abstract_syntax), [str(syntax) for syntax in proposed.transfer_syntax], preferred
    )
    context = copy(ours)
    context.transfer_syntax = list(dict.fromkeys([*map(UID, first), *ours.transfer_syntax]))
    return context


def _refusal_of(incomplete: PresentationContext) -> PresentationContext:
    """Refuse a context whose abstract or transfer syntax is empty, as some senders' are; the others go on."""
    refusal = PresentationContext()
    refusal.context_id = incomplete.context_id
    if incomplete.abstract_syntax is not None:  # the item may be missing altogether
        refusal.abstract_syntax = incomplete.abstract_syntax
    refusal.transfer_syntax = [UID(QUERY_SYNTAXES[1])]  # "not significant" (PS3.8 table 9-18)
    refusal.result = 0x04 if incomplete.abstract_syntax else 0x03
    return refusal


def reject(layer: UpperLayer, why: tuple[int, int, int]) -> None:
    """Send A-ASSOCIATE-RJ."""
    pdu = A_ASSOCIATE_RJ()
    pdu.result, pdu.source, pdu.reason_diagnostic = why
    layer.send(pdu.encode())


def connect(peer: Peer, timeout: float, tls_files: TlsFiles | None = None) -> socket.socket:
    """Open a connection to a peer, by TLS if it wants that, with our certificate.

    Raises
    ------
    RefusedError
        If nobody listens there, or a certificate does not hold.
    """
    try:
        context = tls.requestor(tls_files, tls_files.authorities if tls_files else None) if peer.tls else None
        connection = socket.create_connection((peer.host, peer.port), timeout)
    except OSError as error:
        raise RefusedError(f"{peer.ae_title} at {peer.host} port {peer.port}: {error}") from None
    if context is None:
        return connection
    try:
        return tls.wrap(connection, context, timeout, peer.tls_name or peer.host)
    except RefusedError as error:
        raise RefusedError(
            f"{peer.ae_title} at {peer.host} port {peer.port}: {error}", transient=False
        ) from None


def request(
    layer: UpperLayer,
    calling_ae: str,
    called_ae: str,
    proposed: Sequence[tuple[str, Sequence[str]]],
    max_pdu: int,
    timeout: float,
    scp_of: Sequence[str] = (),
) -> Negotiated:
    """Ask a peer for an association with presentation contexts (abstract syntax, transfer syntaxes).

    Of the abstract syntaxes `scp_of` we are the SCP, though we ask for the association (PS3.7 D.3.3.4).

    Raises
    ------
    RefusedError
        If the peer rejects it.
    """
    contexts: list[Any] = []
    for k, (abstract_syntax, transfer_syntaxes) in enumerate(proposed):
        context = PresentationContext()
        context.context_id = 2 * k + 1
        context.abstract_syntax = UID(abstract_syntax)
        context.transfer_syntax = [UID(t) for t in transfer_syntaxes]
        contexts.append(context)
    primitive = A_ASSOCIATE()
    primitive.application_context_name = UID(APPLICATION_CONTEXT)
    primitive.calling_ae_title = calling_ae
    primitive.called_ae_title = called_ae
    primitive.presentation_context_definition_list = contexts
    primitive.user_information = [*_own_items(max_pdu), *map(_scp_role, scp_of)]
    layer.send(A_ASSOCIATE_RQ(primitive).encode())

    kind, content = layer.read_pdu(timeout)
    raw = _with_header(kind, content)
    try:
        if kind == upper_layer.ASSOCIATE_RJ:
            rejection = A_ASSOCIATE_RJ()
            rejection.decode(raw)
            raise RefusedError(
                f"{called_ae} rejects the association: {rejection.reason_str}",
                transient=rejection.result == REJECTED_TRANSIENT,
            )
        if kind != upper_layer.ASSOCIATE_AC:
            raise RefusedError(f"{called_ae} answers with a PDU of type {kind:#04x}")
        pdu = A_ASSOCIATE_AC()
        pdu.decode(raw)
        answer = pdu.to_primitive()
        results = negotiate_as_requestor(contexts, answer.presentation_context_definition_results_list)
    except RefusedError:
        raise
    except Exception as error:  # pynetdicom raises whatever the bytes provoke
        raise ProtocolError(f"the answer of {called_ae} cannot be decoded: {error!r}") from None
    layer.peer_max_pdu = answer.maximum_length_received or 0
    negotiated = Negotiated(
        calling_ae,
        called_ae,
        peer_implementation=_implementation(answer),
        peer_is_a_node=str(answer.implementation_class_uid or "") == IMPLEMENTATION_CLASS_UID,
    )
    for result in results:
        if result.result == 0:
            negotiated.contexts[result.context_id] = Context(
                result.context_id, str(result.abstract_syntax), str(result.transfer_syntax[0]), True
            )
    return negotiated


def _scp_role(abstract_syntax: str) -> SCP_SCU_RoleSelectionNegotiation:
    role = SCP_SCU_RoleSelectionNegotiation()
    role.sop_class_uid = UID(abstract_syntax)
    role.scu_role = False
    role.scp_role = True
    return role


def _own_items(max_pdu: int) -> list[Any]:
    length = MaximumLengthNotification()
    length.maximum_length_received = max_pdu
    implementation = ImplementationClassUIDNotification()
    implementation.implementation_class_uid = UID(IMPLEMENTATION_CLASS_UID)
    version = ImplementationVersionNameNotification()
    version.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    return [length, implementation, version]


def _implementation(primitive: A_ASSOCIATE) -> str:
    for item in primitive.user_information:
        if isinstance(item, ImplementationVersionNameNotification):
            return str(item.implementation_version_name)
    return ""


def _title(value: Any) -> str:
    return str(value or "").strip(" \0")
