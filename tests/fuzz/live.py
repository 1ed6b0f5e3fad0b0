"""Hostile conversations with a node of its own, over the network: `python -m tests.fuzz.live --minutes 10`.

The same conversations as in `protocol.py`, eight at a time, on a node that is served and compresses as usual;
one in fifty stalls instead of ending. Answers are compared with the same model, and from time to time the node
must answer C-ECHO at once. At the end its memory, files and threads must be what they were, and everything that
it has acknowledged must be found.
"""

import argparse
import random
import socket
import tempfile
import threading
import time
import traceback
from collections import Counter
from pathlib import Path

from tests.fuzz.model import heard
from tests.fuzz.protocol import Case, cases, compare
from tests.nodes import Node
from tests.scp.wire import echo, found, wait_for

AT_A_TIME = 8
TIMEOUTS = {"pdu_timeout": 2, "association_timeout": 2, "idle_timeout": 2}


def converse(port: int, case: Case, *, stall: bool) -> bytes:
    """Send a conversation's bytes, end it or fall silent, and return all that came back."""
    answers = bytearray()
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for piece in case.script:
                connection.sendall(piece)
            if not stall:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the node has ended it
        try:
            while data := connection.recv(1 << 16):
                answers += data
        except ConnectionResetError:
            pass
    return bytes(answers)


class Talker(threading.Thread):
    """Holds conversations until the time is up."""

    def __init__(self, port: int, seed: int, until: float) -> None:
        super().__init__()
        self.port, self.chance, self.until = port, random.Random(seed), until
        self.counts: Counter[str] = Counter()
        self.acknowledged: set[str] = set()
        self.failures: list[str] = []

    def run(self) -> None:
        """Talk."""
        for case in cases(self.chance):
            if time.monotonic() > self.until:
                return
            stall = self.chance.random() < 0.02
            try:
                answers = converse(self.port, case, stall=stall)
                answered = heard(answers)
                # Sent at once, a request may overtake the end of a query: what follows that is not compared.
                self.acknowledged |= {uid for uid, _ in compare(b"".join(case.script), answered)}
                self.counts[answered.end if answered.opening == "accepted" else answered.opening] += 1
            except Exception:
                self.failures.append(f"{case.to_json()}\n{traceback.format_exc()}")


def state(pid: int) -> tuple[float, int, int]:
    """Return (MiB resident, open files, threads)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":", 1) for line in lines)
    files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return round(int(status["VmRSS"].split()[0]) / 1024, 1), files, int(status["Threads"])


def main() -> None:
    """Fuzz."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(dir=options.folder) as folder,
        Node(Path(folder) / "node", dicom=TIMEOUTS) as node,
    ):
        assert node.process is not None
        pid = node.process.pid
        until = time.monotonic() + 60 * options.minutes
        talkers = [Talker(node.port, options.seed * AT_A_TIME + k, until) for k in range(AT_A_TIME)]
        for talker in talkers:
            talker.start()
        echoes = []
        states = [state(pid)]
        while any(talker.is_alive() for talker in talkers):
            started = time.monotonic()
            assert echo(node.port) == 0
            echoes.append(time.monotonic() - started)
            states.append(state(pid))
            if len(states) % 30 == 0:
                print(states[-1], flush=True)
            time.sleep(2)
        for talker in talkers:
            talker.join()
        time.sleep(5)  # those that stalled are let go
        assert wait_for(lambda: not node.partial())
        node.drained(300)
        acknowledged = set[str]().union(*(talker.acknowledged for talker in talkers))
        missing = acknowledged - set(found(node.port))
        last = state(pid)
        broken = [event for event in node.events() if "exception" in event]
        verified = node.command("verify", check=False).returncode
    counts = sum((talker.counts for talker in talkers), Counter[str]())
    failures = [failure for talker in talkers for failure in talker.failures]
    for failure in failures:
        print(failure)
    for event in broken:
        print(event)
    print(
        f"{counts.total() + len(failures)} conversations, {len(failures)} failures, {len(broken)} exceptions in the "
        f"log; {len(acknowledged)} UIDs acknowledged, {len(missing)} missing; verify: exit code {verified}"
    )
    quarter = states[len(states) // 4]
    print(
        f"(MiB, files, threads) after a quarter {quarter}, at the end {last}; slowest echo {max(echoes):.2f} s"
    )
    print(", ".join(f"{end or 'no answer'}: {count}" for end, count in counts.most_common()))


if __name__ == "__main__":
    main()
