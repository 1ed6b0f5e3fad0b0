"""TLS with DCMTK as the peer: both ways, both sides' certificates checked."""

import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.corpus_files import data_set, series_files
from tests.nodes import Node, dcmtk, free_port
from tests.scp.wire import wait_for


@dataclass
class Authority:
    """A certificate authority and what it has signed, made by openssl."""

    folder: Path

    @property
    def certificate(self) -> Path:
        return self.folder / "ca.crt"

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self._openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=Test CA",
                      "-keyout", "ca.key", "-out", "ca.crt")  # fmt: skip

    def sign(self, name: str, days: str = "2") -> tuple[Path, Path]:
        """Return (certificate, key) for a host name."""
        self._openssl("req", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-keyout",
                      f"{name}.key", "-out", f"{name}.csr")  # fmt: skip
        (self.folder / "names").write_text(f"subjectAltName=DNS:{name},IP:127.0.0.1\n")
        self._openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key",
                      "-CAcreateserial", "-days", days, "-extfile", "names", "-out", f"{name}.crt")  # fmt: skip
        return self.folder / f"{name}.crt", self.folder / f"{name}.key"

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls") / "ca")


@pytest.fixture(scope="module")
def secured(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, int]]:
    certificate, key = authority.sign("localhost")
    port, destination = free_port(), free_port()
    tls = {"port": port, "certificate": str(certificate), "key": str(key)}
    peer = {
        "ae_title": "DEST",
        "host": "127.0.0.1",
        "port": destination,
        "tls": True,
        "tls_name": "localhost",
    }
    dicom = {
        "tls": {**tls, "authorities": str(authority.certificate)},
        "peers": {"destination": peer},
        "association_timeout": 2,
    }
    with Node(tmp_path_factory.mktemp("secured"), dicom=dicom) as node:
        yield node, port


def client(authority: Authority, name: str = "modality", days: str = "2") -> list[str]:
    certificate, key = authority.sign(name, days)
    return ["+tls", str(key), str(certificate), "+cf", str(authority.certificate)]


def test_plain_and_tls_ports_stand_side_by_side(secured: tuple[Node, int], authority: Authority) -> None:
    node, port = secured
    dcmtk("echoscu", "127.0.0.1", str(node.port))
    dcmtk("echoscu", *client(authority), "localhost", str(port))


def test_images_come_and_go_by_tls(secured: tuple[Node, int], authority: Authority, tmp_path: Path) -> None:
    node, port = secured
    path = series_files("CT-LIDC0314-thin")[0]
    meta, original = data_set(path)
    dcmtk("storescu", *client(authority), "-xi", "localhost", str(port), path)
    certificate, key = authority.sign("localhost")
    destination = node.config["dicom"]["peers"]["destination"]["port"]
    receiver = subprocess.Popen(
        ["storescp", "+tls", key, certificate, "+cf", authority.certificate, "+B", "-od", tmp_path,
         "+xi", str(destination)]
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", destination)) == 0:
                    break
            time.sleep(0.05)
        time.sleep(0.2)
        dcmtk(
            "movescu", "-S", "-aem", "DEST", "-k", "QueryRetrieveLevel=IMAGE",
            "-k", f"SOPInstanceUID={meta.sop_instance_uid}", "127.0.0.1", str(node.port),
        )  # fmt: skip
        (arrived,) = tmp_path.iterdir()
        node.command("export", meta.sop_instance_uid, tmp_path / "out")
        (kept,) = (tmp_path / "out").rglob("*.dcm")  # storescu writes the group lengths anew
        assert data_set(arrived)[1] == data_set(kept)[1]
        assert data_set(arrived)[1].endswith(original[-512 * 512 * 2 :])
    finally:
        receiver.kill()
        receiver.wait()


def test_who_has_no_certificate_of_ours_is_refused(
    secured: tuple[Node, int], authority: Authority, tmp_path: Path
) -> None:
    node, port = secured
    stranger = Authority(tmp_path / "stranger")
    wrong = [*client(stranger)[:3], "+cf", str(authority.certificate)]
    none = ["+tla", "+cf", str(authority.certificate)]
    for options in (wrong, none):
        assert dcmtk("echoscu", *options, "localhost", str(port), check=False).returncode != 0

    def refused() -> list[dict[str, Any]]:
        return [e for e in node.events("connection refused") if "TLS handshake failed" in e["problem"]]

    assert wait_for(lambda: len(refused()) >= 2)
    assert all(event["host"] == "127.0.0.1" for event in refused())
    dcmtk("echoscu", *client(authority), "localhost", str(port))


def test_an_expired_certificate_is_refused(secured: tuple[Node, int], authority: Authority) -> None:
    node, port = secured
    expired = client(authority, "expired", days="-1")
    assert dcmtk("echoscu", *expired, "localhost", str(port), check=False).returncode != 0
    assert wait_for(lambda: any("expired" in event["problem"] for event in node.events("connection refused")))


def test_a_silent_client_holds_up_nobody(secured: tuple[Node, int], authority: Authority) -> None:
    _, port = secured
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
    options = client(authority)
    started = time.monotonic()
    dcmtk("echoscu", *options, "localhost", str(port))
    assert time.monotonic() - started < 2  # not behind their timeout
    for connection in silent:
        connection.settimeout(10)
        assert connection.recv(1) == b""
        connection.close()


def shown(port: int, authority: Authority) -> str:
    """Return the certificate that a TLS port shows."""
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-cert", authority.folder / "modality.crt",
         "-key", authority.folder / "modality.key"],
        input="", capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    return done.stdout[done.stdout.index("-----BEGIN") : done.stdout.index("-----END")]


def test_a_renewed_certificate_is_taken_over_on_sighup(
    secured: tuple[Node, int], authority: Authority
) -> None:
    node, port = secured
    client(authority)
    first = shown(port, authority)
    certificate, _ = authority.sign("localhost")
    node.reload()
    assert wait_for(lambda: shown(port, authority) != first)
    whole = certificate.read_text()
    certificate.write_text("nothing")
    node.reload()
    assert wait_for(lambda: "certificate not reloaded" in node.log_file.read_text())
    assert shown(port, authority) != first
    certificate.write_text(whole)


def start_with(folder: Path, certificate: Path, key: Path) -> subprocess.CompletedProcess[str]:
    tls = {"port": free_port(), "certificate": str(certificate), "key": str(key)}
    node = Node(folder, dicom={"tls": {**tls, "require_client_certificate": False}})
    return node.command("serve", check=False)


def test_files_that_are_no_certificate_and_key_are_named(authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.sign("files")
    locked = authority.folder / "locked.key"
    subprocess.run(
        ["openssl", "rsa", "-aes128", "-passout", "pass:secret", "-in", key, "-out", locked],
        check=True,
        capture_output=True,
    )
    absent = authority.folder / "absent.key"
    for wrong, what in ((locked, "pass phrase"), (absent, "No such file"), (certificate, "no certificate")):
        done = start_with(tmp_path / wrong.name, certificate, wrong)
        assert done.returncode == 2
        assert str(wrong) in done.stderr
        assert what in done.stderr
        assert "Enter" not in done.stderr


def test_config_check_tries_the_tls_port(secured: tuple[Node, int], authority: Authority) -> None:
    node, port = secured
    checked = node.command("config", "check", check=False).stdout
    assert f"ok      TLS port {port} on 127.0.0.1: in use: by a running node?" in checked


def test_a_tls_port_needs_its_files(tmp_path: Path) -> None:
    done = Node(tmp_path / "node", dicom={"tls": {"port": 2762}}).command("stats", check=False)
    assert done.returncode == 2
    assert "certificate" in done.stderr
