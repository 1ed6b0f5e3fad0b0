"""SIGKILL at random moments while four associations send and what came before is compressed.

    python -m tests.scp.killing --rounds 1000 [--seed 1] [--folder DIR]

The node of each round is forked from this process, which has imported everything and compiled the kernels:
so a round takes a fraction of a second, and the node is at work, compressing too, when the end comes. After
every 50 rounds everything that was acknowledged must be there, byte for byte, also once it is compressed.
"""

import argparse
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from dcmpress.storage.verify import verify
from tests.nodes import Node
from tests.scp.instances import encoded, image
from tests.scp.receivers import at_level, get
from tests.scp.wire import EXPLICIT, IMPLICIT, MR, VERIFICATION, Wire, found, wait_for
from tests.storage.objects import assert_serves, compressed, opened

BOTH = [(VERIFICATION, [IMPLICIT]), (MR, [EXPLICIT])]
SENDERS = 4
BATCH = 50
"""Rounds after which everything is compared."""


class Sender(threading.Thread):
    """Sends instances of one series until the connection breaks; notes what was acknowledged."""

    def __init__(self, port: int, number: int, round_: int) -> None:
        super().__init__()
        self.port, self.number, self.round = port, number, round_
        self.acknowledged: dict[str, bytes] = {}

    def run(self) -> None:
        """Send."""
        try:
            with Wire(self.port) as wire:
                wire.associate(BOTH)
                for k in range(1, 10_000):
                    uid = f"1.2.3.{self.round}.{self.number}.{k}"
                    series = f"1.2.9.{self.round}.{self.number}"
                    data = encoded(image(k, 24, uid=uid, SeriesInstanceUID=series)[1])
                    if wire.store(3, MR, uid, data) == 0:
                        self.acknowledged[uid] = data
        except (OSError, EOFError, AssertionError):
            pass  # killed


class _Forked:
    """The part of `subprocess.Popen` that `Node` uses, for a child of our own."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self, timeout: float) -> int:
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode


class ForkedNode(Node):
    """A node that begins as a copy of this process, which must have no other threads then."""

    def start(self, environment: dict[str, str] | None = None) -> Node:
        """Start it and wait until it accepts associations."""
        process: Any
        if pid := os.fork():
            process = _Forked(pid)
            self.process = process
            self.wait_for_port()
            return self
        try:
            os.setsid()
            log = os.open(self.log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
            from dcmpress.cli.serve import serve
            from dcmpress.storage import workers

            workers.get_context = lambda _: get_context("fork")  # type: ignore[assignment]
            serve(config=self.config_file)
        finally:
            os._exit(1)


def kill_rounds(node: Node, rounds: int, chance: random.Random, longest: float) -> dict[str, bytes]:
    """Start and kill a node so often, within `longest` seconds; return what it acknowledged."""
    acknowledged: dict[str, bytes] = {}
    for round_ in range(rounds):
        node.start()
        senders = [Sender(node.port, number, round_) for number in range(SENDERS)]
        for sender in senders:
            sender.start()
        time.sleep(chance.uniform(0.02, longest))
        node.stop(signal.SIGKILL)
        assert wait_for(lambda: _is_silent(node.port))  # its workers, dying, may still hold the port
        for sender in senders:
            sender.join()
            acknowledged.update(sender.acknowledged)
    return acknowledged


def _is_silent(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def check_kept(folder: Path, acknowledged: dict[str, bytes]) -> None:
    """Check an archive that was left behind: recovered, then compressed, it gives back what it acknowledged."""
    with opened(folder) as archive:
        assert archive.recover().problems == {}
        assert_serves(archive, acknowledged)
        compressed(archive)
        assert archive.spool.names() == []
        assert_serves(archive, acknowledged)
        assert [v.problems for v in verify(archive, mark=False) if v.problems] == []


def check_all_there(node: Node, acknowledged: dict[str, bytes]) -> None:
    """Check a running node: everything acknowledged is found and given back, and nothing is there in part."""
    assert not node.partial()
    assert set(acknowledged) <= set(found(node.port))
    study = at_level("STUDY", StudyInstanceUID="1.2.826.0.1.3680043.8.498.1")
    for _ in ("as it was found", "settled"):
        back = get(node.port, [(MR, EXPLICIT)], study).data_sets
        assert {uid: back.get(uid) for uid in acknowledged} == acknowledged
        node.drained()
    assert node.command("verify", check=False).returncode == 0


def main() -> None:
    """Kill."""
    from dcmpress.codecs.warm import warm_all

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    warm_all([("interframe", {"effort": "fast"})])
    done = acknowledged = blobs = partial = 0
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        while done < arguments.rounds:
            node = ForkedNode(Path(folder) / str(done), pipeline={"settle_seconds": 0.2})
            kept = kill_rounds(node, min(BATCH, arguments.rounds - done), chance, 1.0)
            check_kept(node.data, kept)
            recovered = node.events("recovered")
            done += min(BATCH, arguments.rounds - done)
            acknowledged += len(kept)
            blobs += sum(event["unfinished_blobs"] for event in recovered)
            partial += sum(event["partial_removed"] for event in recovered)
            print(
                f"{done} kills: {acknowledged} instances acknowledged, none lost; on restart {partial} partial "
                f"spool files and {blobs} unfinished blobs were removed",
                flush=True,
            )
            shutil.rmtree(node.folder)


if __name__ == "__main__":
    main()
