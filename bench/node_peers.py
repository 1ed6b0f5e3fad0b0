"""The servers side by side: dcmpress, Debian's Orthanc as shipped, DCMTK's dcmqrscp; and what they cost."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")

# Without it each C-STORE of theirs waits for a delayed acknowledgement: 14 images/s, whoever serves.
ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}

_CLIENT_PORT = 11999


class Server:
    """A server process with its own empty folder, listening on `port`."""

    name = ""
    ae_title = ""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.data.mkdir(parents=True)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        self.peak = 0
        """Largest resident set seen, all processes together, in bytes."""
        self._ended = threading.Event()
        with (folder / "log.txt").open("wb") as log:
            self._process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, env=ENVIRONMENT, start_new_session=True
            )
        self._wait_for_port()
        self._wait_until_idle()
        self.idle_rss = self.rss()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()

    def command(self) -> list[str]:
        """Write the configuration; return the command line."""
        raise NotImplementedError

    def stop(self) -> None:
        """Stop it and everything that it started."""
        self._ended.set()
        self._sampler.join()
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def cpu_seconds(self) -> float:
        """Return the CPU time of its processes, those that have ended included."""
        return sum(sum(map(int, _stat(pid)[11:15])) for pid in self._pids()) / TICKS

    def own_cpu_seconds(self) -> float:
        """Return the CPU time of the process that serves, without workers and children."""
        return sum(map(int, _stat(self._process.pid)[11:13])) / TICKS

    def rss(self) -> int:
        """Return the resident set of all its processes, in bytes."""
        return sum(int(_stat(pid)[21]) for pid in self._pids()) * PAGE

    def disk_bytes(self) -> int:
        """Return the bytes of all its files."""
        return sum(path.lstat().st_size for path in self.data.rglob("*") if path.is_file())

    def log_tail(self) -> str:
        """Return the end of what it printed."""
        return (self.folder / "log.txt").read_text(errors="replace")[-2000:]

    def _pids(self) -> list[int]:
        """Return the server's process and its descendants that still live."""
        children: dict[int, list[int]] = {}
        for entry in os.scandir("/proc"):
            if entry.name.isdigit() and (stat := _stat(int(entry.name))):
                children.setdefault(int(stat[1]), []).append(int(entry.name))
        found = [self._process.pid]
        for pid in found:
            found += children.get(pid, [])
        return [pid for pid in found if _stat(pid)]

    def _sample(self) -> None:
        while not self._ended.wait(0.1):
            self.peak = max(self.peak, self.rss(), _peak_of(self._process.pid))

    def _wait_until_idle(self, timeout: float = 300) -> None:
        """Wait until it has done what it does once: compile, warm up, open its files."""
        deadline = time.monotonic() + timeout
        before, quiet = self.cpu_seconds(), 0
        while quiet < 3 and time.monotonic() < deadline:
            time.sleep(0.3)
            now = self.cpu_seconds()
            quiet = quiet + 1 if now - before < 0.02 else 0
            before = now

    def _wait_for_port(self) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.05)
        self._process.kill()
        raise RuntimeError(f"{self.name} does not start: {self.log_tail()}")


class Dcmpress(Server):
    """This node. Nothing is compressed while it receives: `settle_seconds` and `group_mib` are out of reach."""

    name = "dcmpress"
    ae_title = "DCMPRESS"
    settle_seconds: float = 3600
    group_mib = 4096
    effort = "balanced"
    cache_mib = 256
    disk_cache_gib = 0.0
    processes = 1

    def command(self) -> list[str]:
        config = {
            "dicom": {"port": self.port, "ae_title": self.ae_title, "processes": self.processes},
            "storage": {"root": str(self.data), "reserve_mib": 0},
            "pipeline": {"settle_seconds": self.settle_seconds, "group_mib": self.group_mib},
            "retrieval": {"cache_mib": self.cache_mib, "disk_cache_gib": self.disk_cache_gib},
            "compression": {"rules": [{"codec": "interframe", "effort": self.effort}]},
        }
        path = self.folder / "config.yaml"
        path.write_text(json.dumps(config))  # JSON is YAML
        return [sys.executable, "-m", "dcmpress", "serve", "--config", str(path)]

    def compressed(self) -> bool:
        """Tell whether nothing waits in the spool."""
        return not any((self.data / "spool").glob("*.dcm"))


class DcmpressTwo(Dcmpress):
    """This node, listening in two processes."""

    name = "dcmpress, two processes"
    processes = 2


class DcmpressBusy(Dcmpress):
    """This node while a worker compresses at effort fast what came before."""

    name = "dcmpress, compressing"
    settle_seconds = 0.2
    group_mib = 32
    effort = "fast"


class DcmpressSettled(Dcmpress):
    """This node with default effort, compressing as soon as a series is quiet: what was received lately."""

    settle_seconds = 1
    group_mib = 256
    disk_cache_gib = 32.0


class DcmpressMemory(DcmpressSettled):
    """The same without a disk cache, asked again: a series that was decoded lately."""

    name = "dcmpress, from memory"
    disk_cache_gib = 0.0


class DcmpressDecoding(DcmpressMemory):
    """The same, keeping nothing in memory either: each retrieval is decoded from blobs."""

    name = "dcmpress, decoding"
    cache_mib = 0


class Orthanc(Server):
    """Debian's Orthanc with the configuration that the package installs, in its own folder and port."""

    name = "Orthanc"
    ae_title = "ORTHANC"

    def command(self) -> list[str]:
        shipped = Path("/etc/orthanc/orthanc.json")
        config = _without_comments(shipped.read_text()) if shipped.exists() else {}
        config |= {
            "StorageDirectory": str(self.data),
            "IndexDirectory": str(self.data),
            "DicomPort": self.port,
            "HttpServerEnabled": False,
            "DicomModalities": {"bench": ["BENCH", "127.0.0.1", _CLIENT_PORT]},
        }
        path = self.folder / "orthanc.json"
        path.write_text(json.dumps(config))
        return ["Orthanc", str(path)]


class Dcmqrscp(Server):
    """DCMTK's dcmqrscp."""

    name = "dcmqrscp"
    ae_title = "QRSCP"

    def command(self) -> list[str]:
        path = self.folder / "dcmqrscp.cfg"
        path.write_text(
            f"NetworkTCPPort = {self.port}\nMaxPDUSize = 131072\nMaxAssociations = 16\n"
            "HostTable BEGIN\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
            f"AETable BEGIN\n{self.ae_title} {self.data} RW (1000, 8192mb) ANY\nAETable END\n"
        )
        return ["dcmqrscp", "--log-level", "error", "-c", str(path)]


def _without_comments(text: str) -> dict[str, Any]:
    """Return the value of JSON with comments in the style of C++."""
    tokens = re.compile(r'"(?:\\.|[^"\\])*"|/\*.*?\*/|//[^\n]*', re.DOTALL)
    plain = tokens.sub(lambda match: match[0] if match[0][0] == '"' else "", text)
    value: dict[str, Any] = json.loads(plain)
    return value


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name (so [0] is the state), or [] if it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _peak_of(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(match[1]) * 1024 if match else 0
