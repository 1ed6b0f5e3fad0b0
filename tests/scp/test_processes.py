"""Several processes on one port: one node to its peers, whichever process answers, and whichever dies."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nodes import Node
from tests.scp.instances import encoded, image, instances
from tests.scp.wire import (
    ABORT,
    EXPLICIT,
    IMPLICIT,
    MR,
    RJ,
    VERIFICATION,
    Wire,
    associate_rq,
    found,
    store_rq,
    wait_for,
)

BOTH = [(VERIFICATION, [IMPLICIT]), (MR, [EXPLICIT])]
LIMIT = 6


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path / "node", dicom={"processes": 2, "max_associations": LIMIT})
    with node:
        node.event("ready")
        yield node


def listening(node: Node) -> set[int]:
    """Return the two processes that accept."""
    return set(node.serving())


def opened(node: Node, count: int) -> list[Wire]:
    wires = [Wire(node.port) for _ in range(count)]
    for wire in wires:
        wire.associate(BOTH)
    return wires


def rejected(node: Node) -> bool:
    with Wire(node.port) as wire:
        wire.send(associate_rq(BOTH))
        return wire.read()[0] == RJ


def held(node: Node) -> list[str]:
    """Return what a query finds, as soon as there is a place for it: associations end after their release."""
    answers: list[list[str]] = []

    def asked() -> bool:
        try:
            answers.append(found(node.port))
        except AssertionError:  # rejected
            return False
        return True

    assert wait_for(asked, 60)
    return answers[0]


def served_by(pids: set[int], wire: Wire) -> int:
    """Return the process that has the other end of a connection open."""
    host, port = wire.socket.getsockname()
    peer = f"{int.from_bytes(socket.inet_aton(host), 'little'):08X}:{port:04X}"
    end = f":{wire.socket.getpeername()[1]:04X}"
    table = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    established = [fields for fields in table if fields[3] == "01"]
    (inode,) = [fields[9] for fields in established if fields[2] == peer and fields[1].endswith(end)]
    (pid,) = [pid for pid in pids if f"socket:[{inode}]" in _open_files(pid)]
    return pid


def _open_files(pid: int) -> set[str]:
    files = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            files.add(str(path.readlink()))
        except OSError:
            continue
    return files


def test_associations_are_counted_and_numbered_as_one(node: Node) -> None:
    pids = listening(node)
    assert len(pids) == 2
    wires = opened(node, LIMIT)
    assert {served_by(pids, wire) for wire in wires} <= pids
    assert rejected(node)
    assert wait_for(lambda: len(node.events("association accepted")) == LIMIT)
    assert len({event["association"] for event in node.events("association accepted")}) == LIMIT
    wires.pop().release()
    sent = instances(len(wires))
    for wire, (uid, data) in zip(wires, sent.items(), strict=True):
        assert wire.store(3, MR, uid, data) == 0
        assert uid in held(node)  # at once, whichever process answers
    for wire in wires:
        wire.release()
    assert node.settled()["instances"] == len(sent)


def test_a_process_that_dies_is_replaced_and_takes_nothing_along(node: Node) -> None:
    pids = listening(node)
    wires = opened(node, LIMIT)
    victim = served_by(pids, wires[0])
    mine = [wire for wire in wires if served_by(pids, wire) == victim]
    others = [wire for wire in wires if wire not in mine]
    uid, data_set = image(1, size=1200)  # the spool writes a MiB at a time
    message = mine[0].message(3, store_rq(MR, uid), encoded(data_set), fragment=8000)
    mine[0].send(message[: len(message) // 2])
    assert wait_for(node.partial)
    os.kill(victim, signal.SIGKILL)
    assert all(wire.ended() for wire in mine)
    (safe, data), (late, late_data) = instances(2).items()
    assert node.event("listener process died")["process"] == victim
    assert wait_for(lambda: len(listening(node)) == 2 and victim not in listening(node))
    assert wait_for(lambda: not node.partial())
    places = opened(node, len(mine))  # those of the dead are free again
    assert rejected(node)
    assert (*others, *places)[0].store(
        3, MR, safe, data
    ) == 0  # others: those that the dead one did not serve
    assert places[0].store(3, MR, late, late_data) == 0
    for wire in (*others, *places):
        wire.release()
    assert set(held(node)) == {safe, late}


def test_what_a_dead_process_had_received_whole_is_entered(node: Node) -> None:
    """Between the name of the file and the row in the catalog there is nobody to tell the sender."""
    pids = listening(node)
    (wire,) = opened(node, 1)
    uid, data_set = image(1)
    assert wire.store(3, MR, uid, encoded(data_set)) == 0
    (path,) = (node.data / "spool").glob("*.dcm")
    left = path.read_bytes()
    node.drained()
    assert node.command("verify").returncode == 0
    (node.data / "catalog.sqlite-left").write_bytes(left)  # same file system, so that it comes by a rename
    (node.data / "catalog.sqlite-left").rename(path)
    os.kill(served_by(pids, wire), signal.SIGKILL)
    node.event("listener process died")
    assert wait_for(lambda: not path.exists())  # known bytes: the blob has them


def test_settings_reach_every_process_before_the_log_says_so(node: Node) -> None:
    node.reload(dicom={"require_called_ae": True})
    for _ in range(LIMIT):
        with Wire(node.port) as wire:
            wire.send(associate_rq(BOTH, called="ELSEWHERE"))
            assert wire.read()[0] == RJ


def test_sigterm_ends_every_process_gracefully(node: Node) -> None:
    pids = listening(node)
    process = node.process
    assert process is not None
    wires = opened(node, 4)
    storing = wires[0]
    uid, data_set = image(1, size=1200)
    message = storing.message(3, store_rq(MR, uid), encoded(data_set), fragment=8000)
    storing.send(message[: len(message) // 2])
    assert wait_for(node.partial)
    process.send_signal(signal.SIGTERM)
    for wire in wires[1:]:
        assert wire.read_abort()[0] in (0, 2)
        assert wire.ended()
    storing.send(message[len(message) // 2 :])
    assert storing.status() == 0
    assert storing.read()[0] == ABORT
    assert process.wait(60) == 0
    assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    assert not node.events("listener process died")
    with node:
        assert found(node.port) == [uid]


def test_the_processes_end_with_the_node(node: Node) -> None:
    pids = listening(node)
    process = node.process
    assert process is not None
    process.kill()
    process.wait(20)
    assert wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", node.port)) != 0
