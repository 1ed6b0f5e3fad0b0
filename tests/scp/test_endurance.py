"""What a node must bear: many connections, idle ones, the end of the process at any moment, a huge object."""

import ctypes
import random
import resource
import signal
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dcmpress.scp.connections import MOST_NEGOTIATING
from tests.nodes import Node
from tests.scp.instances import encoded, image, instances
from tests.scp.killing import BOTH, check_all_there, kill_rounds
from tests.scp.wire import (
    ABORT,
    IMPLICIT,
    MR,
    P_DATA,
    VERIFICATION,
    Wire,
    echo,
    echo_rq,
    found,
    pdu,
    pdv,
    store_rq,
    wait_for,
)

IDLE_LIMIT = 0.02
"""Of a core, for 50 associations."""
ECHO = [(VERIFICATION, [IMPLICIT])]


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used, its threads included."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def memory(pid: int, field: str) -> int:
    """Return VmRSS or VmHWM in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) << 10
    raise AssertionError(field)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with Node(tmp_path_factory.mktemp("endurance")) as running:
        yield running


def spent_in(pids: list[int], seconds: float) -> float:
    """Return the processor time that processes use in the next seconds."""
    before = sum(map(cpu_seconds, pids))
    time.sleep(seconds)
    return sum(map(cpu_seconds, pids)) - before


def test_50_idle_associations_cost_nothing(node: Node) -> None:
    wires = [Wire(node.port) for _ in range(50)]
    for wire in wires:
        wire.associate(ECHO)
    # A node that has just started is busy once, warming its workers; what associations cost never ends.
    assert min(spent_in(node.listeners(), 5) for _ in range(3)) <= 5 * IDLE_LIMIT
    for wire in wires:
        wire.send(wire.message(1, echo_rq()))
        assert wire.status() == 0
        wire.release()


def test_1100_connections(node: Node) -> None:
    """More than select() can count, and more than the usual limit of open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    connections: list[socket.socket] = []
    try:
        with Wire(node.port) as early:
            early.associate(BOTH)
            connections = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(1100)]
            (uid, data), (late_uid, late_data) = instances(2).items()
            assert early.store(3, MR, uid, data) == 0
            with Wire(node.port) as late:
                late.associate(BOTH)
                assert late.store(3, MR, late_uid, late_data) == 0
                late.release()
            early.release()
        assert {uid, late_uid} <= set(found(node.port))
    finally:
        for connection in connections:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert echo(node.port) == 0
    assert not node.events("cannot accept connections")
    floods = node.events("many connections open no association; the oldest are dropped")
    assert [flood["limit"] for flood in floods] == [MOST_NEGOTIATING] * len(node.serving())


def test_the_oldest_connection_without_an_association_makes_place(tmp_path: Path) -> None:
    with Node(tmp_path / "node") as node, Wire(node.port) as early:
        early.associate(ECHO)
        room = MOST_NEGOTIATING * len(node.serving())
        silent = [socket.create_connection(("127.0.0.1", node.port), 20) for _ in range(room + 3)]
        assert wait_for(lambda: sum(_is_closed(peer) for peer in silent) >= 3)
        assert not _is_closed(silent[-1])
        early.send(early.message(1, echo_rq()))
        assert early.status() == 0
        early.release()
        for peer in silent:
            peer.close()


def _is_closed(peer: socket.socket) -> bool:
    peer.setblocking(False)
    try:
        return peer.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_a_peer_that_takes_no_answer_holds_up_nobody(node: Node) -> None:
    with Wire(node.port) as wire:
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.associate(ECHO)
        wire.socket.settimeout(1)
        wire.send(wire.message(1, echo_rq()) * 20000)
        started = time.monotonic()
        assert echo(node.port) == 0
        assert time.monotonic() - started < 5


def test_sigterm_lets_a_store_finish_and_aborts_the_idle(tmp_path: Path) -> None:
    node = Node(tmp_path / "node").start()
    process = node.process
    assert process is not None
    uid, data_set = image(1, size=256)
    data = encoded(data_set)
    with Wire(node.port) as idle, Wire(node.port) as storing:
        idle.associate(ECHO)
        storing.associate(BOTH)
        message = storing.message(3, store_rq(MR, uid), data, fragment=8000)
        storing.send(message[: len(message) // 2])
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        assert idle.read_abort()[0] in (0, 2)
        assert idle.ended()
        assert wait_for(lambda: _refuses(node.port))
        storing.send(message[len(message) // 2 :])
        assert storing.status() == 0
        kind, _ = storing.read()
        assert kind == ABORT
    assert process.wait(60) == 0
    with node:
        assert found(node.port) == [uid]


def test_sigterm_is_heard_by_whichever_thread_it_reaches(tmp_path: Path) -> None:
    """The kernel may hand a process's signal to any thread, while the main one sleeps."""
    with Node(tmp_path / "node") as node:
        process = node.process
        assert process is not None
        threads = [int(entry.name) for entry in Path(f"/proc/{process.pid}/task").iterdir()]
        other = max(threads)
        assert other != process.pid
        assert ctypes.CDLL(None).tgkill(process.pid, other, signal.SIGTERM) == 0
        assert process.wait(30) == 0


def _refuses(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_sigterm_waits_for_a_stalled_store_no_longer_than_configured(tmp_path: Path) -> None:
    node = Node(tmp_path / "node", dicom={"shutdown_timeout": 1}).start()
    process = node.process
    assert process is not None
    with Wire(node.port) as wire:
        wire.associate(BOTH)
        wire.send(pdu(P_DATA, pdv(3, 3, store_rq(MR, "1.2.3"))))
        time.sleep(0.2)
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        assert time.monotonic() - started < 15
    assert not node.partial()


@pytest.mark.parametrize("rounds", [8, pytest.param(40, marks=pytest.mark.long)])
def test_sigkill_at_any_moment_loses_nothing_acknowledged(tmp_path: Path, rounds: int) -> None:
    """While receiving on four associations, and while compressing what came before; `killing.py` goes on."""
    node = Node(tmp_path / "node", pipeline={"settle_seconds": 0.2})
    acknowledged = kill_rounds(node, rounds, random.Random(20240102), 1.0)
    assert acknowledged
    with node:
        check_all_there(node, acknowledged)


@pytest.mark.parametrize("mib", [150, pytest.param(1500, marks=pytest.mark.long)])
def test_memory_stays_bounded_while_a_large_object_comes(tmp_path: Path, mib: int) -> None:
    with Node(tmp_path / "node", pipeline={"settle_seconds": 3600, "group_mib": 4096}) as node:
        uid, data_set = image(1, size=512, NumberOfFrames=2 * mib, SamplesPerPixel=1)
        del data_set.PixelData
        frame = random.Random(1).randbytes(512 * 512 * 2)
        head = encoded(data_set) + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, 2 * mib * len(frame))
        with Wire(node.port, timeout=120) as wire:
            wire.associate(BOTH)
            wire.send(wire.message(1, echo_rq()))
            assert wire.status() == 0
            before = {pid: memory(pid, "VmRSS") for pid in node.listeners()}
            wire.send(pdu(P_DATA, pdv(3, 3, store_rq(MR, uid))) + pdu(P_DATA, pdv(3, 0, head)))
            for k in range(2 * mib):
                for at in range(0, len(frame), 1 << 16):
                    last = 2 if k == 2 * mib - 1 and at + (1 << 16) == len(frame) else 0
                    wire.send(pdu(P_DATA, pdv(3, last, frame[at : at + (1 << 16)])))
            assert wire.status() == 0
            assert sum(memory(pid, "VmHWM") - rss for pid, rss in before.items()) < 100 << 20
            wire.release()
