"""A real node in a process of its own, and the peers that talk to it: DCMTK's programs and pynetdicom."""

import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import UID
from pynetdicom import AE, _config, build_role, evt
from pynetdicom.association import Association
from ruamel.yaml import YAML

from tests.corpus_files import data_set

# The corpus is full of values that break the standard; they are to travel as they are.
_config.ENFORCE_UID_CONFORMANCE = False
_config.STORE_SEND_CHUNKED_DATASET = True

_serve_request = Association._serve_request


def _serve_request_or_give_back(association: Association, message: Any, context_id: int) -> None:
    """Put back a response that the association's thread took from under the one that waits for it.

    pynetdicom pauses that thread before it sends, but does not notice when the thread has left the pause and
    was not given the processor yet: the response is dropped, the sender waits for its timeout and aborts.
    """
    if message.is_valid_request or association._reactor_checkpoint.is_set():
        _serve_request(association, message, context_id)
        return
    waiting = association.dimse.msg_queue
    with waiting.mutex:
        waiting.queue.appendleft((context_id, message))
        waiting.not_empty.notify()


Association._serve_request = _serve_request_or_give_back

PEER_ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}


def free_port() -> int:
    """Return a TCP port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def merged(base: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with `extra` laid over it, section by section."""
    return {
        key: merged(base[key], extra[key])
        if isinstance(base.get(key), dict) and isinstance(extra.get(key), dict)
        else extra.get(key, base.get(key))
        for key in {**base, **extra}
    }


class Node:
    """`dcmpress serve` as a process, with its own folder and port."""

    def __init__(self, folder: Path, **config: Any) -> None:
        self.folder = folder
        self.port = free_port()
        self.config_file = folder / "config.yaml"
        self.log_file = folder / "log.txt"
        folder.mkdir(parents=True, exist_ok=True)
        base = {
            "dicom": {"port": self.port},
            "storage": {"root": str(folder / "data"), "reserve_mib": 0},
            "retrieval": {"disk_cache_gib": 0},  # what has settled is decoded when it is fetched
            "pipeline": {"settle_seconds": 0.5},
            "compression": {"rules": [{"codec": "interframe", "effort": "fast"}]},
            "log": {"format": "json"},
        }
        self.configure(**merged(base, config))
        self.process: subprocess.Popen[bytes] | None = None

    def configure(self, **config: Any) -> None:
        """Write the configuration file."""
        self.config = config
        with self.config_file.open("w") as file:
            YAML().dump(config, file)

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.folder / "data"

    def listeners(self) -> list[int]:
        """Return the processes that may serve an association: the node's own, and its fork server's."""
        assert self.process is not None
        own = self.process.pid
        commands = {pid: _command_line(pid) for pid in _descendants(own)}
        return [own, *(pid for pid, command in commands.items() if "multiprocessing.forkserver" in command)]

    def processes(self) -> list[int]:
        """Return the node's process and everything that it has started."""
        assert self.process is not None
        return [self.process.pid, *_descendants(self.process.pid)]

    def serving(self) -> list[int]:
        """Return the processes that serve associations."""
        own, *others = self.listeners()
        children = {pid: _parent(pid) for pid in others}
        return [pid for pid, parent in children.items() if parent != own] or [own]

    def partial(self) -> list[Path]:
        """Return files in the spool that hold a part of an instance; prepared, empty ones do not count."""
        return [path for path in (self.data / "spool").glob("*.part") if path.stat().st_size]

    def start(self, environment: dict[str, str] | None = None) -> "Node":
        """Start it and wait until it accepts associations."""
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "dcmpress", "serve", "--config", str(self.config_file)],
                stdout=log,
                stderr=log,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        self.wait_for_port()
        return self

    def wait_for_port(self, timeout: float = 60.0) -> None:
        """Wait until the port answers."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"the node ended with {self.process.returncode}: {self.log_text()}")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError("the node does not listen")

    def stop(self, number: int = signal.SIGTERM, timeout: float = 60.0) -> int:
        """Send a signal and wait for the end; return the exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(timeout)
        if number == signal.SIGKILL:  # its workers too, as the end of a machine would
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process = None
        return code

    def __enter__(self) -> "Node":
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def log_text(self) -> str:
        """Return everything that the node has logged."""
        return self.log_file.read_text(errors="replace")

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """Return the log events, or those of one name."""
        found = []
        for line in self.log_text().splitlines():
            if line.startswith("{"):
                event = json.loads(line)
                if name in (None, event.get("event")):
                    found.append(event)
        return found

    def event(self, name: str, **expected: Any) -> dict[str, Any]:
        """Wait for a log event with these values and return it: it may be written after the peer's answer."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            for event in self.events(name):
                if expected.items() <= event.items():
                    return event
            time.sleep(0.02)
        raise AssertionError(f"no event {name} with {expected}: {self.log_text()[-3000:]}")

    def reload(self, **config: Any) -> None:
        """Lay `config` over the configuration, send SIGHUP, and wait until the node has read it."""
        before = len(self.events())
        self.configure(**merged(self.config, config))
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if any(
                event["event"] in ("configuration reloaded", "configuration not reloaded")
                for event in self.events()[before:]
            ):
                return
            time.sleep(0.02)
        raise AssertionError("the node does not read its configuration again")

    def command(
        self, *arguments: str | Path, check: bool = True, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run `dcmpress ...` with this node's configuration."""
        done = subprocess.run(
            [sys.executable, "-m", "dcmpress", *map(str, arguments), "--config", str(self.config_file)],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{arguments}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def stats(self) -> dict[str, Any]:
        """Return `dcmpress stats --json`."""
        result: dict[str, Any] = json.loads(self.command("stats", "--json").stdout)
        return result

    def settled(self, timeout: float = 120.0) -> dict[str, Any]:
        """Wait until everything received is compressed and verified; return the statistics then."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if not any((self.data / "spool").glob("*.dcm")):
                stats = self.stats()
                if stats["spool"]["instances"] == 0:
                    return stats
            time.sleep(0.1)
        raise AssertionError(f"not settled after {timeout} s: {self.log_text()[-3000:]}")

    def drained(self, timeout: float = 120.0) -> None:
        """Wait until the spool is empty: as `settled`, without the time that the statistics take."""
        deadline = time.monotonic() + timeout
        while any((self.data / "spool").glob("*.dcm")):
            assert time.monotonic() < deadline, f"not settled after {timeout} s: {self.log_text()[-3000:]}"
            time.sleep(0.05)


def _descendants(pid: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        found += [grandchild for child in children for grandchild in (child, *_descendants(child))]
    return found


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def dcmtk(program: str, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run one of DCMTK's programs."""
    done = subprocess.run(
        [program, *map(str, arguments)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=300,
        env=PEER_ENVIRONMENT,
        check=False,
    )
    if check and done.returncode:
        raise AssertionError(f"{program}: exit code {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def send_unchanged(port: int, paths: Iterable[Path]) -> dict[Path, int]:
    """Send files by pynetdicom in chunked mode, which puts their data set bytes on the wire unchanged.

    Returns path -> status of the C-STORE response. One association per 100 pairs of SOP class and syntax.
    """
    wanted: dict[tuple[str, str], list[Path]] = {}
    for path in paths:
        meta, _ = data_set(path)
        wanted.setdefault((meta.sop_class_uid, meta.transfer_syntax_uid), []).append(path)
    statuses: dict[Path, int] = {}
    pairs = sorted(wanted)
    for start in range(0, len(pairs), 100):
        ae = AE(ae_title="SENDER")
        part = pairs[start : start + 100]
        for sop_class, syntax in part:
            ae.add_requested_context(UID(sop_class), UID(syntax))
        association = ae.associate(
            "127.0.0.1", port, ae_title="DCMPRESS", evt_handlers=[(evt.EVT_CONN_OPEN, without_delay)]
        )
        assert association.is_established
        for pair in part:
            for path in wanted[pair]:
                answer = association.send_c_store(path)
                statuses[path] = answer.Status if "Status" in answer else -1
        association.release()
    return statuses


def without_delay(event: Any) -> None:
    """Handle an opened connection: pynetdicom leaves Nagle's algorithm on, which costs 40 ms a message."""
    event.assoc.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def sha256(data: bytes) -> str:
    """Return the SHA-256 of bytes, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def get_roles(sop_classes: Sequence[str]) -> list[Any]:
    """Return role selection items with which a C-GET requestor receives these storage classes."""
    return [build_role(UID(uid), scp_role=True) for uid in sop_classes]


@pytest.fixture
def node(tmp_path: Path) -> Iterable[Node]:
    """A running node with its own folder."""
    with Node(tmp_path / "node") as running:
        yield running
