"""The same requests to pynetdicom's own SCP and to ours, each over an archive of its own: the same responses.

pynetdicom negotiates for both, but from there on our association layer is another program; pynetdicom is the
reference for what a response looks like on the wire. Its handlers here do with the archive what ours do.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pynetdicom import AE, evt

from dcmpress.scp.contexts import supported_context
from dcmpress.scp.find import FindRequest, find_responses
from dcmpress.scp.identifier import IdentifierError
from dcmpress.scp.server import DicomServer
from dcmpress.scp.settings import ScpSettings
from dcmpress.scp.status import PENDING, PENDING_UNSUPPORTED_KEYS, store_status
from dcmpress.storage.archive import Archive, ArchiveSettings
from dcmpress.storage.part10 import FileMeta
from dcmpress.storage.spool import Sender
from tests.nodes import without_delay
from tests.scp.instances import encoded, image
from tests.scp.wire import (
    CT,
    EXPLICIT,
    IMPLICIT,
    MR,
    P_DATA,
    RELEASE_RP,
    RELEASE_RQ,
    STUDY_FIND,
    STUDY_GET,
    VERIFICATION,
    Proposal,
    Wire,
    associate_rq,
    echo_rq,
    element,
    item,
    number,
    pdu,
    pdv,
    query_rq,
    store_rq,
)

MAX_PDU = 131072
BIG_ENDIAN, JPEG_LS, UNKNOWN = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.4.80", "1.2.3.4.5"
PROPOSALS: list[Proposal] = [
    (VERIFICATION, [IMPLICIT]),
    (MR, [EXPLICIT]),
    (MR, [BIG_ENDIAN, IMPLICIT]),
    (CT, [JPEG_LS, EXPLICIT]),
    (CT, [UNKNOWN]),
    ("1.2.840.10008.5.1.4.34.6.1", [IMPLICIT]),  # a service that neither offers
    (STUDY_FIND, [EXPLICIT]),
    (STUDY_GET, [EXPLICIT]),
]
ECHO, STORE, FIND = 1, 3, 13
ROLES = item(0x54, struct.pack(">H", len(MR)) + MR.encode() + b"\0\1")

Conversation = Callable[[Wire], list[Any]]


def stock_server(archive: Archive, settings: ScpSettings) -> AE:
    """Return a pynetdicom AE that answers as ours does, with pynetdicom's own means."""
    ae = AE(ae_title=settings.ae_title)
    ae.maximum_pdu_size = settings.max_pdu
    ae.maximum_associations = settings.max_associations
    ae.require_called_aet = settings.require_called_ae
    for uid in (VERIFICATION, MR, CT, STUDY_FIND, STUDY_GET):
        context = supported_context(uid, True)
        assert context is not None
        roles = {"scu_role": context.scu_role, "scp_role": context.scp_role}
        ae.add_supported_context(uid, context.transfer_syntax, **roles)
    return ae


def stock_store(event: Any, archive: Archive) -> Dataset:
    request = event.request
    meta = FileMeta(
        str(request.AffectedSOPClassUID),
        str(request.AffectedSOPInstanceUID),
        str(event.context.transfer_syntax),
    )
    status = Dataset()
    status.Status = 0
    incoming = archive.begin(meta, Sender())
    try:
        incoming.write(request.DataSet.getvalue())
        archive.commit(incoming)
    except Exception as error:
        incoming.abandon()
        status.Status = store_status(error)
        status.ErrorComment = str(error)[:64]
    return status


def stock_find(event: Any, archive: Archive) -> Iterator[tuple[Any, Dataset | None]]:
    syntax = str(event.context.transfer_syntax)
    request = FindRequest(STUDY_FIND, event.request.Identifier.getvalue(), syntax, "DCMPRESS")
    try:
        answers = find_responses(archive.catalog, request)
    except IdentifierError as error:
        status = Dataset()
        status.Status = error.status
        status.ErrorComment = str(error)[:64]
        status.OffendingElement = list(error.offending)
        yield status, None
        return
    for answer in answers.identifiers:
        status = PENDING_UNSUPPORTED_KEYS if answers.ignores_keys else PENDING
        yield status, read_dataset(BytesIO(answer), False, True)


@contextmanager
def both(folder: Path, **fields: Any) -> Iterator[list[int]]:
    """Yield the ports of pynetdicom's server and of ours."""
    settings = ScpSettings(port=0, max_pdu=MAX_PDU, **fields)
    stock, own = (Archive(ArchiveSettings(folder / name)) for name in ("stock", "own"))
    server = DicomServer(own, settings)
    handlers: Any = [
        (evt.EVT_CONN_OPEN, without_delay),
        (evt.EVT_C_STORE, stock_store, [stock]),
        (evt.EVT_C_FIND, stock_find, [stock]),
    ]
    ae = stock_server(stock, settings)
    running: Any = ae.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        yield [running.server_address[1], server.start()]
    finally:
        running.shutdown()
        server.stop()
        stock.close()
        own.close()


def alike(folder: Path, conversation: Conversation, **fields: Any) -> list[Any]:
    """Have a conversation with both; assert that both answer alike, and return the answers."""
    with both(folder, **fields) as ports:
        answers = []
        for port in ports:
            with Wire(port) as wire:
                answers.append(conversation(wire))
    stock, own = answers
    assert own == stock
    return list(own)


def accepted(wire: Wire) -> list[Any]:
    """Read A-ASSOCIATE-AC; return what must agree: not our implementation's name, nor what is not significant."""
    kind, content = wire.read()
    items, at = [], 68
    while at < len(content):
        item_kind, length = struct.unpack_from(">BxH", content, at)
        body = content[at + 4 : at + 4 + length]
        at += 4 + length
        if item_kind == 0x21 and body[2] != 0:
            body = body[:4]  # PS3.8 9.3.3.2: the transfer syntax of a refused context is not significant
        if item_kind == 0x50:
            items += sorted(sub for sub in _items(body) if sub[0] not in (0x52, 0x55))
        else:
            items.append((item_kind, body))
    return [kind, content[:4], content[4:36], sorted(items)]  # by context id: the order is free


def _items(body: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at < len(body):
        kind, length = struct.unpack_from(">BxH", body, at)
        yield kind, body[at + 4 : at + 4 + length]
        at += 4 + length


def opened(wire: Wire) -> None:
    wire.associate(PROPOSALS, max_pdu=MAX_PDU)


def responses(wire: Wire, messages: Sequence[bytes]) -> list[Any]:
    """Send messages one after the other; return context, command set and data set of every response."""
    found: list[Any] = []
    for message in messages:
        wire.send(message)
        while True:
            context_id, command, data = wire.read_message()
            found.append((context_id, list(command.items()), data))
            if number(command, 0x900) not in (PENDING, PENDING_UNSUPPORTED_KEYS):
                break
    return found


def test_negotiation(tmp_path: Path) -> None:
    def conversation(wire: Wire) -> list[Any]:
        wire.send(associate_rq(PROPOSALS, max_pdu=MAX_PDU, user_items=ROLES))
        return accepted(wire)

    kind, _, titles, items = alike(tmp_path, conversation)
    assert kind == 2
    assert titles.split() == [b"DCMPRESS", b"WIRE"]
    results = {body[0]: body[2] for item_kind, body in items if item_kind == 0x21}
    assert results == {1: 0, 3: 0, 5: 0, 7: 0, 9: 4, 11: 3, 13: 0, 15: 0}


@pytest.mark.parametrize("fields", [{"require_called_ae": True}, {"max_associations": 1}])
def test_rejections(tmp_path: Path, fields: dict[str, Any]) -> None:
    def conversation(wire: Wire) -> list[Any]:
        wire.send(associate_rq(PROPOSALS[:1]))
        assert wire.read()[0] == 2
        with Wire(wire.socket.getpeername()[1]) as second:
            second.send(associate_rq(PROPOSALS[:1], called="ELSEWHERE"))
            return [second.read()]

    assert alike(tmp_path, conversation, **fields)[0][0] == 3


def test_verification_and_release(tmp_path: Path) -> None:
    def conversation(wire: Wire) -> list[Any]:
        opened(wire)
        found = responses(wire, [wire.message(ECHO, echo_rq(n)) for n in (1, 65535, 7)])
        wire.send(pdu(RELEASE_RQ, bytes(4)))
        return [*found, wire.read()]

    assert alike(tmp_path, conversation)[-1] == (RELEASE_RP, bytes(4))


def store_messages(wire: Wire) -> list[bytes]:
    """Return requests that end in every way that a C-STORE can, as far as the data set decides."""
    uid, data_set = image(1, uid="1.2.826.0.1.3680043.8.498.77")
    data = encoded(data_set)
    even, other = image(2, uid="1.2.826.0.1.3680043.8.498.8")
    wanted = [
        (store_rq(MR, uid, 1), data),
        (store_rq(MR, uid, 2), data),  # the same again
        (store_rq(MR, uid, 65535), data.replace(b"Test^Image", b"Test^Other")),  # other bytes
        (store_rq(MR, even, 4), encoded(other)),
        (store_rq(MR, "1.2.3", 5), data),  # another instance than the data set
        (store_rq(CT, uid, 6), data),  # another class
        (store_rq(MR, "1.2.3.4", 7), b"garbage " * 40),
        (store_rq(MR, uid, 8), data[: len(data) // 2]),  # cut short
    ]
    return [wire.message(STORE, command, content, fragment=900) for command, content in wanted]


def test_storage(tmp_path: Path) -> None:
    def conversation(wire: Wire) -> list[Any]:
        opened(wire)
        return responses(wire, store_messages(wire))

    statuses = [dict(command)[0x900] for _, command, _ in alike(tmp_path, conversation)]
    assert [int.from_bytes(status, "little") for status in statuses] == [0, 0, 0, 0, 0xA900, 0xA900, 0, 0]


def find_message(wire: Wire, level: str, *keys: bytes, message_id: int = 9) -> bytes:
    identifier = element(0x0008, 0x0052, "CS", level.ljust(len(level) + len(level) % 2)) + b"".join(keys)
    return wire.message(FIND, query_rq(STUDY_FIND, 0x20, message_id), identifier)


def test_queries(tmp_path: Path) -> None:
    study = b"1.2.826.0.1.3680043.8.498.1\0".decode()

    def conversation(wire: Wire) -> list[Any]:
        opened(wire)
        stored = responses(wire, store_messages(wire)[:4])
        queries = [
            find_message(wire, "STUDY", element(0x10, 0x10, "PN", "TEST*"), element(0x20, 0xD, "UI", "")),
            find_message(wire, "STUDY", element(0x10, 0x10, "PN", "NOBODY"), message_id=65535),
            find_message(
                wire,
                "SERIES",
                element(0x8, 0x60, "CS", ""),
                element(0x18, 0x1210, "SH", "B30f"),  # not kept in the catalog
                element(0x20, 0xD, "UI", study),
            ),
            find_message(wire, "IMAGE"),  # without the keys of the levels above
            find_message(wire, "NOWHERE"),
        ]
        return [*stored, *responses(wire, queries)]

    answers = alike(tmp_path, conversation)[4:]
    statuses = [int.from_bytes(dict(command)[0x900], "little") for _, command, _ in answers]
    assert statuses == [0xFF00, 0, 0, 0xFF01, 0, 0xA900, 0xA900]


@pytest.mark.parametrize(
    "broken",
    [
        pdu(9, bytes(4)),  # no PDU of PS3.8
        pdu(RELEASE_RP, bytes(4)),  # an answer to nothing
        associate_rq(PROPOSALS[:1]),  # a second time
    ],
    ids=["unknown", "release response", "second request"],
)
def test_aborts(tmp_path: Path, broken: bytes) -> None:
    def conversation(wire: Wire) -> list[Any]:
        opened(wire)
        wire.send(broken)
        source, _ = wire.read_abort()
        return [source]  # pynetdicom gives no reason; test_broken_pdus.py has those of PS3.8

    alike(tmp_path, conversation)


def test_a_request_over_many_small_fragments(tmp_path: Path) -> None:
    """The command too may come in pieces, and several values in one PDU."""
    uid, data_set = image(3, size=16)
    command, data = store_rq(MR, uid), encoded(data_set)

    def conversation(wire: Wire) -> list[Any]:
        opened(wire)
        pieces = [pdv(STORE, 1, command[:10]), pdv(STORE, 1, command[10:60]), pdv(STORE, 3, command[60:])]
        pieces += [pdv(STORE, 0, data[at : at + 50]) for at in range(0, len(data), 50)]
        pieces.append(pdv(STORE, 2, b""))
        return responses(
            wire, [b"".join(pdu(P_DATA, b"".join(pieces[k : k + 7])) for k in range(0, len(pieces), 7))]
        )

    ((_, command_set, _),) = alike(tmp_path, conversation)
    assert dict(command_set)[0x900] == bytes(2)
