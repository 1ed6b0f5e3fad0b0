"""Good conversations, and what an ill-willed or broken peer makes of them."""

import random
import struct
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Literal

from pydicom.dataset import Dataset

from tests.fuzz.model import ABORT, P_DATA, RELEASE_RQ, RQ
from tests.scp.instances import encoded, image
from tests.scp.wire import (
    CT,
    EXPLICIT,
    IMPLICIT,
    MR,
    STUDY_FIND,
    STUDY_GET,
    STUDY_MOVE,
    VERIFICATION,
    associate_rq,
    command_set,
    echo_rq,
    item,
    pdu,
    pdv,
    query_rq,
    store_rq,
)

COMMITMENT = "1.2.840.10008.1.20.1"
STUDY = "1.2.826.0.1.3680043.8.498.1"
PROPOSALS = [
    (VERIFICATION, [IMPLICIT]),
    (MR, [EXPLICIT]),
    (CT, [IMPLICIT, EXPLICIT]),
    (STUDY_FIND, [EXPLICIT]),
    (STUDY_GET, [EXPLICIT]),
    (STUDY_MOVE, [EXPLICIT]),
    (COMMITMENT, [EXPLICIT]),
    ("1.2.3.4.5.6", [IMPLICIT]),
]
ECHO, STORE_MR, STORE_CT, FIND, GET, MOVE, COMMIT, PRIVATE = range(1, 16, 2)
"""Presentation contexts, in the order of PROPOSALS."""

INTERESTING = (
    0,
    1,
    2,
    3,
    4,
    5,
    6,
    7,
    8,
    0x7F,
    0x80,
    0xFF,
    0x100,
    0x7FFF,
    0xFFFF,
    0x10000,
    0x7FFFFFFF,
    0xFFFFFFFF,
)

Script = list[bytes]
"""The pieces of a conversation; each comes when the node waits."""


@cache
def request(plain: bool = False) -> bytes:
    """Return an A-ASSOCIATE-RQ with every kind of user information item; or `plain`, with three contexts."""
    if plain:
        return associate_rq(PROPOSALS[:3])
    uid = MR.encode()
    roles = item(0x54, struct.pack(">H", len(uid)) + uid + b"\1\1")
    window = item(0x53, struct.pack(">HH", 5, 5))
    relational = item(0x56, struct.pack(">H", len(STUDY_FIND)) + STUDY_FIND.encode() + b"\1")
    related = struct.pack(">H", 6) + struct.pack(">H", 4) + b"1.23"
    service = b"1.2.840.10008.4.2"
    common = item(
        0x57, struct.pack(">H", len(uid)) + uid + struct.pack(">H", len(service)) + service + related
    )
    identity = item(0x58, bytes([1, 1]) + struct.pack(">H", 4) + b"anna" + struct.pack(">H", 0))
    version = item(0x55, b"FUZZ")
    return associate_rq(PROPOSALS, user_items=version + window + roles + relational + common + identity)


def message(context_id: int, command: bytes, data: bytes | None = None, fragment: int = 16000) -> bytes:
    """Return the PDUs of a message."""
    parts = [pdu(P_DATA, pdv(context_id, 3, command))]
    if data is not None:
        for at in range(0, max(1, len(data)), fragment):
            last = 2 if at + fragment >= len(data) else 0
            parts.append(pdu(P_DATA, pdv(context_id, last, data[at : at + fragment])))
    return b"".join(parts)


def _keys(level: str, **keys: str) -> bytes:
    identifier = Dataset()
    identifier.QueryRetrieveLevel = level
    for keyword, value in keys.items():
        setattr(identifier, keyword, value)
    return encoded(identifier)


def kept() -> list[tuple[str, bytes]]:
    """Return instances that are stored before anything else comes: what queries and retrievals find."""
    pairs = (image(number, 8, uid=f"1.2.3.{number}") for number in (1, 2))
    return [(uid, encoded(data_set)) for uid, data_set in pairs]


def good() -> dict[str, Script]:
    """Return conversations that break nothing, by name."""
    release = pdu(RELEASE_RQ, bytes(4))
    uid, data_set = image(3, 8, uid="1.2.4.1")
    small = encoded(data_set)
    other_uid, other = image(4, 8, sop_class=CT, uid="1.2.4.2")
    other_small = encoded(other, IMPLICIT)
    large_uid, large = image(5, 300, uid="1.2.4.3")
    stored = command_set({2: MR, 0x100: 0x8001, 0x120: 8, 0x800: 0x101, 0x900: 0, 0x1000: "1.2.3.1"})
    stored_too = command_set({2: MR, 0x100: 0x8001, 0x120: 9, 0x800: 0x101, 0x900: 0, 0x1000: "1.2.3.2"})
    action = command_set(
        {3: COMMITMENT, 0x100: 0x130, 0x110: 4, 0x800: 1, 0x1001: "1.2.840.10008.1.20.1.1", 0x1008: 1}
    )
    reported = command_set({2: COMMITMENT, 0x100: 0x8100, 0x120: 1, 0x800: 0x101, 0x900: 0, 0x1002: 1})
    wanted, reference = Dataset(), Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = MR, "1.2.3.1"
    wanted.TransactionUID, wanted.ReferencedSOPSequence = "1.2.5.1", [reference]
    echo = message(ECHO, echo_rq(7))
    store = message(STORE_MR, store_rq(MR, uid, 2), small, fragment=200)
    store_other = message(STORE_CT, store_rq(CT, other_uid, 3), other_small)
    find = message(FIND, query_rq(STUDY_FIND, 0x20, 5), _keys("STUDY", StudyInstanceUID="", PatientName="T*"))
    get = message(GET, query_rq(STUDY_GET, 0x10, 7), _keys("STUDY", StudyInstanceUID=STUDY))
    move = message(MOVE, query_rq(STUDY_MOVE, 0x21, 6, "NOWHERE"), _keys("STUDY", StudyInstanceUID=STUDY))
    cancel = message(FIND, command_set({0x100: 0xFFF, 0x120: 5, 0x800: 0x101}))
    unknown = message(ECHO, command_set({2: VERIFICATION, 0x100: 0x140, 0x110: 9, 0x800: 0x101}))
    private = message(
        PRIVATE,
        store_rq("1.2.3.4.5.6", "1.2.4.4", 3),
        encoded(image(6, 4, uid="1.2.4.4", sop_class="1.2.3.4.5.6")[1], IMPLICIT),
    )
    return {
        "echo": [request(), echo, release],
        "store": [request(plain=True), store, release],
        "stores": [request(), store + store_other, store, private, release],
        "large": [
            request(plain=True),
            message(STORE_MR, store_rq(MR, large_uid, 2), encoded(large), 130000),
            release,
        ],
        "fragments": [
            request(plain=True),
            b"".join(pdu(P_DATA, pdv(ECHO, 1, bytes([byte]))) for byte in echo_rq(3)[:-1])
            + pdu(P_DATA, pdv(ECHO, 3, echo_rq(3)[-1:])),
            release,
        ],
        "find": [request(), find, echo, release],
        "cancelled": [request(), find + cancel, release],
        "get": [request(), get, message(STORE_MR, stored), message(STORE_MR, stored_too), release],
        "move": [request(), move, release],
        "commit": [request(), message(COMMIT, action, encoded(wanted)), message(COMMIT, reported), release],
        "unknown": [request(), unknown, echo, release],
        "abort": [request(), store, pdu(ABORT, bytes(4))],
        "late response": [request(), message(STORE_MR, stored), echo, release],
    }


# Damage. Each takes a script and returns another; the script itself is not changed.

Damage = Callable[[Script, random.Random, Sequence[Script]], Script]


def flip_bits(script: Script, chance: random.Random, others: Sequence[Script]) -> Script:
    """Flip up to 16 bits anywhere."""
    pieces = [bytearray(piece) for piece in script]
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        piece = chance.choice(pieces)
        if piece:
            piece[chance.randrange(len(piece))] ^= 1 << chance.randrange(8)
    return [bytes(piece) for piece in pieces]


def set_bytes(script: Script, chance: random.Random, _: Sequence[Script]) -> Script:
    """Overwrite one, two or four bytes with a number that programs trip over."""
    at = chance.randrange(len(script))
    piece = bytearray(script[at])
    size = chance.choice((1, 2, 4))
    if len(piece) > size:
        where = chance.randrange(len(piece) - size)
        number = chance.choice(INTERESTING) & (1 << 8 * size) - 1
        piece[where : where + size] = number.to_bytes(size, chance.choice(("big", "little")))
    return [*script[:at], bytes(piece), *script[at + 1 :]]


def cut_or_fill(script: Script, chance: random.Random, others: Sequence[Script]) -> Script:
    """Delete, insert or double a run of bytes."""
    at = chance.randrange(len(script))
    piece = script[at]
    where, length = chance.randrange(len(piece) + 1), chance.choice((1, 2, 4, 6, 12, 60, 400))
    kind = chance.randrange(4)
    if kind == 0:
        piece = piece[:where] + piece[where + length :]
    elif kind == 1:
        piece = piece[:where] + chance.randbytes(length) + piece[where:]
    elif kind == 2:
        piece = piece[: where + length] + piece[where:]
    else:
        donor = chance.choice(chance.choice(others))
        begin = chance.randrange(len(donor) + 1)
        piece = piece[:where] + donor[begin : begin + length] + piece[where + length :]
    return [*script[:at], piece, *script[at + 1 :]]


def break_off(script: Script, chance: random.Random, _: Sequence[Script]) -> Script:
    """Stop at any byte, perhaps with an abort, a release or a request for another association."""
    at = chance.randrange(len(script))
    cut = script[at][: chance.randrange(len(script[at]) + 1)]
    end = chance.choice((b"", b"", pdu(ABORT, bytes(4)), pdu(RELEASE_RQ, bytes(4)), pdu(RQ, bytes(68))))
    return [*script[:at], cut + end]


def lie_about_a_length(script: Script, chance: random.Random, _: Sequence[Script]) -> Script:
    """Change the length of a PDU, a PDV, an item of A-ASSOCIATE-RQ or an element of a command."""
    at = chance.randrange(len(script))
    piece = bytearray(script[at])
    where = list(_lengths(script[at]))
    if where:
        offset, size = chance.choice(where)
        order: Literal["little", "big"] = "little" if size < 0 else "big"
        size = abs(size)
        true = int.from_bytes(piece[offset : offset + size], order)
        number = chance.choice((*INTERESTING, true - 2, true - 1, true + 1, true + 2, true + 6, 2 * true))
        piece[offset : offset + size] = (number & (1 << 8 * size) - 1).to_bytes(size, order)
    return [*script[:at], bytes(piece), *script[at + 1 :]]


def _lengths(piece: bytes) -> list[tuple[int, int]]:
    """Return (offset, width) of every length field; a negative width: little endian."""
    found = []
    at = 0
    while at + 6 <= len(piece):
        kind, length = struct.unpack_from(">BxI", piece, at)
        found.append((at + 2, 4))
        end = min(len(piece), at + 6 + length)
        if kind == P_DATA:
            inner = at + 6
            while inner + 6 <= end:
                size, _, control = struct.unpack_from(">IBB", piece, inner)
                found.append((inner, 4))
                element = inner + 6
                while control & 1 and element + 8 <= min(end, inner + 4 + size):
                    found.append((element + 4, -4))
                    element += 8 + int(struct.unpack_from("<I", piece, element + 4)[0])
                inner += 4 + size
        elif kind == RQ:
            found += _item_lengths(piece, at + 74, end)
        at += 6 + length
    return found


def _item_lengths(piece: bytes, at: int, end: int) -> list[tuple[int, int]]:
    found = []
    while at + 4 <= end:
        kind, length = struct.unpack_from(">BxH", piece, at)
        found.append((at + 2, 2))
        if kind == 0x20:
            found += _item_lengths(piece, at + 8, min(end, at + 4 + length))
        elif kind == 0x50:
            found += _item_lengths(piece, at + 4, min(end, at + 4 + length))
        elif kind in (0x54, 0x56, 0x57, 0x58):
            found.append((at + 4 + (2 if kind == 0x58 else 0), 2))
        at += 4 + length
    return found


def rearrange_pdus(script: Script, chance: random.Random, others: Sequence[Script]) -> Script:
    """Drop, double, swap or insert PDUs, of known and of unknown type."""
    at = chance.randrange(len(script))
    pdus = split_pdus(script[at])
    if not pdus:
        return script
    where = chance.randrange(len(pdus))
    kind = chance.randrange(5)
    if kind == 0:
        del pdus[where]
    elif kind == 1:
        pdus.insert(where, pdus[where])
    elif kind == 2:
        other = chance.randrange(len(pdus))
        pdus[where], pdus[other] = pdus[other], pdus[where]
    elif kind == 3:
        pdus.insert(
            where,
            pdu(
                chance.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 255)),
                chance.randbytes(chance.choice((0, 4, 10, 100))),
            ),
        )
    else:
        donors = split_pdus(chance.choice(chance.choice(others)))
        pdus.insert(where, chance.choice(donors or [b""]))
    return [*script[:at], b"".join(pdus), *script[at + 1 :]]


def rearrange_pdvs(script: Script, chance: random.Random, others: Sequence[Script]) -> Script:
    """Change contexts, control bits and cutting of presentation data values, or their order."""
    at = chance.randrange(len(script))
    values: list[tuple[int, int, bytes]] = []
    rest = []
    for one in split_pdus(script[at]):
        if one[0] == P_DATA and len(one) >= 12:
            length, context_id, control = struct.unpack_from(">IBB", one, 6)
            values.append((context_id, control, one[12 : 10 + length]))
        else:
            rest.append(one)
    if not values:
        return script
    for _ in range(chance.choice((1, 1, 2, 5))):
        where = chance.randrange(len(values))
        context_id, control, data = values[where]
        kind = chance.randrange(7)
        if kind == 0:
            context_id = chance.choice((0, 1, 2, 3, 5, 7, 15, 17, 255))
        elif kind == 1:
            control = chance.choice((0, 1, 2, 3, control ^ 1, control ^ 2, 4, 0x83, 255))
        elif kind == 2 and data:
            cut = chance.randrange(len(data))
            values[where : where + 1] = [
                (context_id, control & 1, data[:cut]),
                (context_id, control, data[cut:]),
            ]
            continue
        elif kind == 3:
            other = chance.randrange(len(values))
            values[where], values[other] = values[other], values[where]
            continue
        elif kind == 4:
            values.insert(where, values[where])
            continue
        elif kind == 5:
            data = b""
        else:
            data = chance.randbytes(chance.choice((1, 8, 100)))
        values[where] = (context_id, control, data)
    together = chance.random() < 0.3
    encoded_values = [pdv(*value) for value in values]
    pdus = [pdu(P_DATA, b"".join(encoded_values))] if together else [pdu(P_DATA, v) for v in encoded_values]
    return [*script[:at], b"".join(pdus + rest), *script[at + 1 :]]


def rewrite_command(script: Script, chance: random.Random, _: Sequence[Script]) -> Script:
    """Exchange a command set for another one, made of elements that may not fit each other."""
    at = chance.randrange(len(script))
    pdus = split_pdus(script[at])
    commands = [k for k, one in enumerate(pdus) if one[0] == P_DATA and len(one) > 12 and one[11] & 1]
    if not commands:
        return script
    k = chance.choice(commands)
    elements: dict[int, int | str] = {
        0x100: chance.choice((1, 0x10, 0x20, 0x21, 0x30, 0x130, 0xFFF, 0x8001, 0x8020, 0, 0x100, 0xFFFF)),
        0x110: chance.choice((0, 1, 7, 0xFFFF)),
        0x800: chance.choice((0, 1, 0x101, 0x102, 0xFFFF)),
    }
    choices: tuple[tuple[int, tuple[Any, ...]], ...] = (
        (2, (MR, CT, VERIFICATION, "", "1.2\\3", "x" * 70, STUDY_FIND)),
        (0x120, (0, 5, 7, 8)),
        (0x600, ("NOWHERE ", "", "A" * 40)),
        (0x700, (0, 1, 9)),
        (0x900, (0, 0xA700, 0xFF00)),
        (0x1000, ("1.2.4.1", "", "1" * 64, "1" * 65, "\xfc", "1.2.4.1\0\0")),
        (0x1001, ("1.2.840.10008.1.20.1.1", "1.2")),
        (0x1008, (0, 1, 2)),
        (0x4321, ("unknown ",)),
    )
    for number, values in choices:
        if chance.random() < 0.5:
            elements[number] = chance.choice(values)
    body = b""
    for number, value in sorted(elements.items()):
        raw = struct.pack("<H", value) if isinstance(value, int) else value.encode("latin-1")
        body += struct.pack("<HHI", 0, number, len(raw)) + raw
    pdus[k] = pdu(P_DATA, pdv(pdus[k][10], 3, body))
    return [*script[:at], b"".join(pdus), *script[at + 1 :]]


def rewrite_request(script: Script, chance: random.Random, _: Sequence[Script]) -> Script:
    """Exchange the A-ASSOCIATE-RQ for one with odd titles, contexts, versions and items."""
    uids = (
        MR,
        CT,
        VERIFICATION,
        STUDY_GET,
        "",
        "1",
        "1.2.840.10008.1.2",
        "x.y",
        "9" * 70,
        "1..2",
        "\xff",
        "1.2.3\0",
    )
    proposals = [
        (
            chance.choice(uids),
            [chance.choice((IMPLICIT, EXPLICIT, *uids)) for _ in range(chance.choice((0, 1, 2, 9)))],
        )
        for _ in range(chance.choice((0, 1, 2, 5, 128, 140)))
    ]
    kinds = (0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x10, 0x20, 0x40, 0x50, 0xFF)
    items = b"".join(
        item(chance.choice(kinds), chance.randbytes(chance.choice((0, 1, 2, 4, 8, 40))))
        for _ in range(chance.choice((0, 1, 3, 10)))
    )
    try:
        encoded_request = associate_rq(
            [(a.encode("latin-1").decode("latin-1"), t) for a, t in proposals],
            calling=chance.choice(("WIRE", "", " " * 16, "ABCDEFGHIJKLMNOP", "\x01\x02")),
            max_pdu=chance.choice((0, 1, 6, 7, 8, 100, 16384, 0xFFFFFFFF)),
            user_items=items,
            version=chance.choice((0, 1, 1, 1, 2, 3, 0xFFFF)),
            application=chance.choice(("1.2.840.10008.3.1.1.1", "1.2.840.10008.3.1.1.1", "", "1.2")),
        )
    except (struct.error, ValueError):
        return script
    return [encoded_request, *script[1:]]


DAMAGES: tuple[Damage, ...] = (
    flip_bits,
    flip_bits,
    set_bytes,
    cut_or_fill,
    break_off,
    lie_about_a_length,
    lie_about_a_length,
    rearrange_pdus,
    rearrange_pdvs,
    rearrange_pdvs,
    rewrite_command,
    rewrite_request,
)


def damaged(script: Script, chance: random.Random, others: Sequence[Script]) -> Script:
    """Return a conversation with one kind of damage or several."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        script = chance.choice(DAMAGES)(script, chance, others)
        script = [piece for piece in script if piece] or [b"\0"]
    return script


def recut(script: Script, chance: random.Random) -> Script:
    """Cut the same bytes into other pieces, as a network does."""
    data = b"".join(script)
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.choice((0, 1, 3, 20))))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if b > a]


def split_pdus(piece: bytes) -> list[bytes]:
    """Cut bytes into PDUs; what is left at the end stays one."""
    found, at = [], 0
    while at + 6 <= len(piece):
        (length,) = struct.unpack_from(">I", piece, at + 2)
        found.append(piece[at : at + 6 + length])
        at += 6 + length
    if at < len(piece):
        found.append(piece[at:])
    return found
