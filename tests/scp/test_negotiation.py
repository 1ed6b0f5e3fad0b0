"""Who may talk to the node about what (PS3.8 7.1, PS3.7 annex D), and what the log advises those it refuses."""

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcmpress.cli.wiring import scp_settings
from dcmpress.config import load
from dcmpress.scp.settings import AllowedCaller
from tests.nodes import Node
from tests.scp.instances import encoded, image
from tests.scp.wire import (
    AC,
    CT,
    EXPLICIT,
    IMPLICIT,
    MR,
    RJ,
    STUDY_FIND,
    STUDY_GET,
    VERIFICATION,
    Wire,
    associate_rq,
    echo,
    echo_rq,
    element,
    find,
    item,
    query_rq,
    wait_for,
)

BIG_ENDIAN, DEFLATED, RLE = (f"1.2.840.10008.1.2.{n}" for n in ("2", "1.99", "5"))
JPEG, JPEG_LOSSLESS, JPEG_LS, J2K, HTJ2K, JPEG_XL, MPEG4, HEVC = (
    f"1.2.840.10008.1.2.4.{n}" for n in (50, 70, 80, 90, 201, 110, 102, 107)
)
PRIVATE = "1.3.46.670589.5.0.3"
RETIRED = "1.2.840.10008.5.1.4.1.1.6"
HARDCOPY = "1.2.840.10008.5.1.1.29"
WORKLIST_FIND, STORAGE_COMMITMENT = "1.2.840.10008.5.1.4.31", "1.2.840.10008.1.20.1"
ROLE, EXTENDED, IDENTITY, IDENTITY_REPLY = 0x54, 0x56, 0x58, 0x59
ACCEPTED, ABSTRACT_UNKNOWN, TRANSFER_UNKNOWN = 0, 3, 4


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Node(tmp_path_factory.mktemp("negotiation")) as running:
        yield running


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        ([IMPLICIT, EXPLICIT], EXPLICIT),
        ([JPEG, J2K, RLE, BIG_ENDIAN, IMPLICIT, EXPLICIT], EXPLICIT),
        ([JPEG, J2K, RLE, BIG_ENDIAN, IMPLICIT], IMPLICIT),
        ([JPEG, BIG_ENDIAN, JPEG_LOSSLESS], BIG_ENDIAN),
        ([JPEG, MPEG4, J2K], J2K),  # lossless before lossy
        ([MPEG4, JPEG], JPEG),
        ([HEVC], HEVC),
        ([HTJ2K], HTJ2K),
        ([JPEG_XL], JPEG_XL),
        (["1.2.3.4", DEFLATED], DEFLATED),
    ],
)
def test_of_several_transfer_syntaxes_the_most_useful_is_chosen(
    node: Node, offered: list[str], chosen: str
) -> None:
    with Wire(node.port) as wire:
        assert wire.associate([(CT, offered)]) == {1: (ACCEPTED, chosen)}
        wire.release()


def test_contexts_of_one_syntax_each_are_all_accepted(node: Node) -> None:
    syntaxes = [
        IMPLICIT,
        EXPLICIT,
        BIG_ENDIAN,
        DEFLATED,
        RLE,
        JPEG,
        JPEG_LOSSLESS,
        JPEG_LS,
        J2K,
        HTJ2K,
        MPEG4,
    ]
    with Wire(node.port) as wire:
        contexts = wire.associate([(CT, [syntax]) for syntax in syntaxes])
        assert contexts == {2 * k + 1: (ACCEPTED, syntax) for k, syntax in enumerate(syntaxes)}
        wire.release()


def test_128_contexts(node: Node) -> None:
    with Wire(node.port) as wire:
        contexts = wire.associate([(f"1.2.840.10008.5.1.4.1.1.{n}", [EXPLICIT]) for n in range(1, 129)])
        assert sorted(contexts) == list(range(1, 257, 2))
        wire.release()


def test_private_and_retired_classes_are_stored(node: Node) -> None:
    with Wire(node.port) as wire:
        classes = (PRIVATE, RETIRED, HARDCOPY)
        contexts = wire.associate([(sop_class, [EXPLICIT]) for sop_class in classes])
        assert contexts == {1 + 2 * k: (ACCEPTED, EXPLICIT) for k in range(3)}
        uid, data_set = image(sop_class=PRIVATE)
        assert wire.store(1, PRIVATE, uid, encoded(data_set)) == 0
        uid, data_set = image(sop_class=RETIRED)
        assert wire.store(3, RETIRED, uid, encoded(data_set)) == 0
        uid, data_set = image(sop_class=HARDCOPY)
        assert wire.store(5, HARDCOPY, uid, encoded(data_set)) == 0
        wire.release()


def test_what_is_refused_is_logged_with_advice(node: Node) -> None:
    before = len(node.events("presentation context refused"))
    with Wire(node.port) as wire:
        contexts = wire.associate(
            [(WORKLIST_FIND, [IMPLICIT]), (CT, ["1.2.3.4"]), ("", [IMPLICIT]), (MR, [EXPLICIT])]
        )
        assert [contexts[k][0] for k in (1, 3, 5, 7)] == [
            ABSTRACT_UNKNOWN,
            TRANSFER_UNKNOWN,
            ABSTRACT_UNKNOWN,
            ACCEPTED,
        ]
        wire.release()
    refused = node.events("presentation context refused")[before:]
    assert [event["abstract_syntax"] for event in refused] == [WORKLIST_FIND, CT, ""]
    assert all(event["advice"] for event in refused)
    assert "Modality Worklist Information Model - FIND" in refused[0]["advice"]
    assert refused[1]["transfer_syntaxes"] == ["1.2.3.4"]
    assert all(event["calling_ae"] == "WIRE" for event in refused)


def role(sop_class: str, scu: int, scp: int) -> bytes:
    return item(ROLE, struct.pack(">H", len(sop_class)) + sop_class.encode() + bytes([scu, scp]))


@pytest.mark.parametrize("roles", [(0, 1), (1, 1), (1, 0)])
def test_role_selection_is_answered_in_kind(node: Node, roles: tuple[int, int]) -> None:
    with Wire(node.port) as wire:
        contexts = wire.associate([(STUDY_GET, [IMPLICIT]), (CT, [EXPLICIT])], user_items=role(CT, *roles))
        assert contexts[3] == (ACCEPTED, EXPLICIT)
        assert wire.user_items[ROLE] == [role(CT, *roles)[4:]]
        wire.release()


def test_user_identity_is_confirmed_only_if_asked(node: Node) -> None:
    for wants_answer, answers in ((1, [b"\0\0"]), (0, None)):
        identity = item(IDENTITY, bytes([1, wants_answer]) + struct.pack(">H3sH", 3, b"joe", 0))
        with Wire(node.port) as wire:
            wire.associate([(VERIFICATION, [IMPLICIT])], user_items=identity)
            assert wire.user_items.get(IDENTITY_REPLY) == answers
            wire.release()


STUDY_MOVE = "1.2.840.10008.5.1.4.1.2.2.2"


@pytest.mark.parametrize(
    ("sop_class", "asked", "answered"),
    [
        (STUDY_FIND, b"\1", b"\1"),
        (STUDY_FIND, b"\0", b"\0"),
        (STUDY_FIND, b"\1\1\1\1\1", b"\1\1\1\0\0"),
        (STUDY_FIND, b"\0\0\1\0\0\1\1\1\1", b"\0\0\1\0\0\1\1\0\0"),
        (STUDY_FIND, b"\2\xff", b"\0\0"),
        (STUDY_GET, b"\1\1", b"\1\0"),
        (STUDY_MOVE, b"\1", b"\1"),
        (CT, b"\1\1\1\1\1\1", None),
    ],
)
def test_of_extended_negotiation_what_works_is_agreed_to(
    node: Node, sop_class: str, asked: bytes, answered: bytes | None
) -> None:
    header = struct.pack(">H", len(sop_class)) + sop_class.encode()
    with Wire(node.port) as wire:
        wire.associate([(sop_class, [EXPLICIT])], user_items=item(EXTENDED, header + asked))
        assert wire.user_items.get(EXTENDED) == (None if answered is None else [header + answered])
        wire.release()


def found_with(node: Node, options: bytes, *keys: bytes) -> int:
    """Return how many images a query finds when `options` are proposed."""
    header = struct.pack(">H", len(STUDY_FIND)) + STUDY_FIND.encode()
    with Wire(node.port) as wire:
        wire.associate([(STUDY_FIND, [EXPLICIT])], user_items=item(EXTENDED, header + options))
        answers = find(wire, 1, "IMAGE", b"".join(keys))
        wire.release()
        return len(answers)


def test_the_options_of_a_query_are_followed(tmp_path: Path) -> None:
    """Each finds the image only where it was negotiated."""
    with Node(tmp_path / "node") as node:
        uid, data_set = image(StudyDate="20240102", StudyTime="103000", PatientName="Test^Image^Middle")
        with Wire(node.port) as wire:
            wire.associate([(MR, [EXPLICIT])])
            assert wire.store(1, MR, uid, encoded(data_set)) == 0
            wire.release()
        times = (
            element(0x0008, 0x0020, "DA", "20240101-20240103 "),
            element(0x0008, 0x0030, "TM", "1200-1100 "),
        )
        assert found_with(node, b"\1\0", *times) == 0
        assert found_with(node, b"\1\1", *times) == 1
        name = element(0x0010, 0x0010, "PN", "mid test")
        assert found_with(node, b"\1\1\0", name) == 0
        assert found_with(node, b"\1\0\1", name) == 1
        empty = element(0x0008, 0x0050, "SH", '""')
        assert found_with(node, b"\1\0\0\0\0\0", empty) == 0
        assert found_with(node, b"\1\0\0\0\0\1", empty) == 1
        several = element(0x0010, 0x0020, "LO", "T0\\T1 ")
        assert found_with(node, b"\1\0\0\0\0\0\1", several) == 1


def test_without_relational_queries_the_hierarchy_is_to_be_kept(node: Node) -> None:
    header = struct.pack(">H", len(STUDY_FIND)) + STUDY_FIND.encode()
    with Wire(node.port) as wire:
        wire.associate([(STUDY_FIND, [EXPLICIT])], user_items=item(EXTENDED, header + b"\1"))
        assert find(wire, 1, "IMAGE", element(0x0010, 0x0020, "LO", "ZZ")) == []
        wire.release()
    with Wire(node.port) as wire:  # not asked for: the hierarchy is to be kept
        wire.associate([(STUDY_FIND, [EXPLICIT])])
        assert EXTENDED not in wire.user_items
        identifier = element(0x0008, 0x0052, "CS", "IMAGE ")
        wire.send(wire.message(1, query_rq(STUDY_FIND, 0x20, 1), identifier))
        assert wire.status() == 0xA900
        wire.release()


@pytest.mark.parametrize("limit", [128, 4096, 4097, 16384, 0])
def test_pdus_keep_to_the_peers_limit(node: Node, limit: int) -> None:
    uid, data_set = image(number=limit, size=200, SeriesInstanceUID=f"1.2.3.{limit}")
    data = encoded(data_set)
    with Wire(node.port) as wire:
        wire.associate([(STUDY_GET, [EXPLICIT]), (MR, [EXPLICIT])], max_pdu=limit, user_items=role(MR, 1, 1))
        assert wire.store(3, MR, uid, data) == 0
        wire.pdu_lengths.clear()
        identifier = element(8, 0x52, "CS", "IMAGE ") + element(8, 0x18, "UI", uid + "\0" * (len(uid) % 2))
        wire.send(wire.message(1, query_rq(STUDY_GET, 0x10, 1), identifier))
        _, command, received = wire.read_message()
        assert struct.unpack("<H", command[0x100])[0] == 1  # C-STORE
        assert received == data
        assert max(wire.pdu_lengths) <= (limit or 1 << 17)
        if limit > 1000:
            assert max(wire.pdu_lengths) > min(limit, len(data)) - 3


def rejection(port: int, **fields: object) -> tuple[int, ...] | None:
    """Return (result, source, reason), or None if the association is accepted."""
    with Wire(port) as wire:
        wire.send(associate_rq([(VERIFICATION, [IMPLICIT])], **fields))  # type: ignore[arg-type]
        kind, content = wire.read()
        assert kind in (AC, RJ)
        if kind == AC:
            wire.contexts = {}
            wire.send(wire.message(1, echo_rq()))
            assert wire.status() == 0
            wire.release()
            return None
        assert wire.ended()
        return tuple(content[1:4])


def test_the_allow_list(tmp_path: Path) -> None:
    allow = [
        {"ae_title": "CT1", "networks": ["127.0.0.0/8"]},
        {"ae_title": "CT2", "networks": ["192.0.2.0/24"]},
        {"ae_title": "CT3"},
    ]
    with Node(tmp_path / "node", dicom={"allow": allow, "require_called_ae": True}) as node:
        assert rejection(node.port, calling="CT1") is None
        assert rejection(node.port, calling="CT2") == (1, 1, 3)
        assert rejection(node.port, calling="CT3") is None
        assert rejection(node.port, calling="ct1") == (1, 1, 3)
        assert rejection(node.port, calling="CT1", called="OTHER") == (1, 1, 7)
        advice = [event["advice"] for event in node.events("association rejected")]
        assert 'dicom.allow: {ae_title: "CT2", networks: [127.0.0.1/32]}' in advice[0]
        assert "DCMPRESS" in advice[2]

        # SIGHUP changes who may come in, and drops nobody who is in.
        with Wire(node.port) as wire:
            wire.associate([(VERIFICATION, [IMPLICIT])], calling="CT1")
            node.reload(dicom={"allow": [{"ae_title": "*", "networks": ["127.0.0.1/32"]}], "port": 1})
            assert node.events("these keys need a restart")[-1]["keys"] == ["dicom.port"]
            assert rejection(node.port, calling="CT2") is None
            wire.send(wire.message(1, echo_rq()))
            assert wire.status() == 0

            node.config_file.write_text("dicom: {allow: [{ae_titel: CT9}]}\n")
            assert node.process is not None
            node.process.send_signal(1)
            assert wait_for(lambda: node.events("configuration not reloaded"))
            assert "ae_titel" in str(node.events("configuration not reloaded"))
            assert rejection(node.port, calling="CT2") is None
            wire.send(wire.message(1, echo_rq()))
            assert wire.status() == 0


@pytest.mark.parametrize(
    ("titles", "answer"),
    [
        ({"calling": "CT1\0\0\0"}, None),
        ({"called": "DCMPRESS\0"}, None),
        ({"calling": " "}, (1, 1, 3)),
        ({"called": " "}, (1, 1, 7)),
        ({"calling": "A\x1bB"}, (1, 1, 3)),
        ({"calling": "A\\B"}, (1, 1, 3)),
    ],
)
def test_what_is_no_ae_title_is_rejected_as_such(
    titles: dict[str, str], answer: tuple[int, int, int] | None, node: Node
) -> None:
    assert rejection(node.port, **titles) == answer
    if answer is not None:
        assert "AE title" in node.events("association rejected")[-1]["problem"]


def test_too_many_associations_are_rejected_as_a_local_limit(tmp_path: Path) -> None:
    with Node(tmp_path / "node", dicom={"max_associations": 3}) as node:
        wires = [Wire(node.port) for _ in range(3)]
        for wire in wires:
            wire.associate([(VERIFICATION, [IMPLICIT])])
        assert rejection(node.port) == (2, 3, 2)
        assert "dicom.max_associations" in node.events("association rejected")[0]["advice"]
        wires[0].release()
        assert wait_for(lambda: rejection(node.port) is None)
        for wire in wires:
            wire.socket.close()


@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7", "fe80::7%eth0"])
def test_the_advice_lets_in_the_caller_and_nobody_else(host: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(f"dicom:\n  allow:\n    - {AllowedCaller.entry('CT: 1', host)}\n")
    (allowed,) = scp_settings(load(path)).allow
    assert allowed.matches("CT: 1", host)
    assert not allowed.matches("CT: 1", "192.0.2.8")
    assert not allowed.matches("CT", host)


def test_private_classes_can_be_refused(tmp_path: Path) -> None:
    with Node(tmp_path / "node", dicom={"accept_private_sop_classes": False}) as node:
        with Wire(node.port) as wire:
            contexts = wire.associate([(PRIVATE, [EXPLICIT]), (CT, [EXPLICIT]), (RETIRED, [EXPLICIT])])
            assert [contexts[k][0] for k in (1, 3, 5)] == [ABSTRACT_UNKNOWN, ACCEPTED, ACCEPTED]
            wire.release()
        (refused,) = node.events("presentation context refused")
        assert "dicom.accept_private_sop_classes: true" in refused["advice"]
        assert echo(node.port) == 0
