"""Orthanc as a peer: a server of its own in a folder of its own, driven by its REST API."""

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.nodes import PEER_ENVIRONMENT, free_port

HOST = "127.0.0.1"
PROGRAM = shutil.which("Orthanc") or "/usr/sbin/Orthanc"  # Debian's folder for it is not on a user's path


class RefusedByOrthancError(Exception):
    """Orthanc answers a request with an HTTP error; the text is its own."""


class Orthanc:
    """A running Orthanc that knows one node as the modality `node`."""

    def __init__(self, folder: Path, ae_title: str = "ORTHANC") -> None:
        self.folder = folder
        self.ae_title = ae_title
        self.port, self.http_port = free_port(), free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def peer(self) -> dict[str, Any]:
        """Return its entry under dicom.peers."""
        return {"ae_title": self.ae_title, "host": HOST, "port": self.port}

    def start(self, node_port: int) -> "Orthanc":
        """Start it and wait until it answers on both its ports."""
        self.folder.mkdir(parents=True, exist_ok=True)
        configuration = {
            "Name": self.ae_title,
            "StorageDirectory": str(self.folder / "storage"),
            "IndexDirectory": str(self.folder / "storage"),
            "Plugins": [],
            "HttpPort": self.http_port,
            "AuthenticationEnabled": False,
            "DicomPort": self.port,
            "DicomAet": self.ae_title,
            "DicomAlwaysAllowStore": True,
            "UnknownSopClassAccepted": True,
            "AcceptedTransferSyntaxes": ["1.2.840.10008.1.*"],
            "DicomModalities": {"node": {"AET": "DCMPRESS", "Host": HOST, "Port": node_port}},
            "OverwriteInstances": True,
            "SaveJobs": False,
        }
        file = self.folder / "orthanc.json"
        file.write_text(json.dumps(configuration))
        with (self.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen([PROGRAM, file], env=PEER_ENVIRONMENT, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not (self._answers(self.http_port) and self._answers(self.port)):
            assert self.process.poll() is None, self.log_text()
            assert time.monotonic() < deadline, self.log_text()
            time.sleep(0.05)
        return self

    @staticmethod
    def _answers(port: int) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((HOST, port)) == 0

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(60)

    def log_text(self) -> str:
        """Return what it has logged."""
        return (self.folder / "log.txt").read_text(errors="replace")

    def call(self, path: str, body: bytes | dict[str, Any] | None = None, method: str = "") -> bytes:
        """Call its REST API; return the answer's body.

        Raises
        ------
        RefusedByOrthancError
        """
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        request = urllib.request.Request(
            f"http://{HOST}:{self.http_port}{path}",
            data,
            method=method or ("GET" if data is None else "POST"),
        )
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError as error:
            raise RefusedByOrthancError(f"{path}: {error.read().decode(errors='replace')}") from None

    def json(self, path: str, body: bytes | dict[str, Any] | None = None) -> Any:
        """Call its REST API; return the answer."""
        return json.loads(self.call(path, body))

    def upload(self, path: Path) -> str:
        """Give it a file; return Orthanc's name of the instance."""
        return str(self.json("/instances", path.read_bytes())["ID"])

    def clear(self) -> None:
        """Delete everything that it keeps."""
        for study in self.json("/patients"):
            self.call(f"/patients/{study}", method="DELETE")

    def files(self) -> dict[str, bytes]:
        """Return SOP Instance UID -> file, of everything that it keeps."""
        kept = self.json("/instances?expand")
        return {
            instance["MainDicomTags"]["SOPInstanceUID"]: self.call(f"/instances/{instance['ID']}/file")
            for instance in kept
        }
