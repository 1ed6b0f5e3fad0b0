"""Dockerfile and docker-compose.yml say what the node understands; no container is started."""

import re
import shlex

import pytest
from ruamel.yaml import YAML

from dcmpress.cli.wiring import scp_settings
from dcmpress.config import load
from tests.corpus_files import PROJECT

COMPOSE = YAML(typ="safe").load(PROJECT / "docker-compose.yml")["services"]["dcmpress"]
DOCKERFILE = (PROJECT / "Dockerfile").read_text().replace("\\\n", "")


def instructions(word: str) -> list[str]:
    return [line.partition(" ")[2] for line in DOCKERFILE.splitlines() if line.startswith(f"{word} ")]


def test_the_environment_makes_a_configuration_that_lets_in_callers_and_the_health_check(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    example = re.search(r"export DCMPRESS_CALLERS='(.*)'", (PROJECT / "docker-compose.yml").read_text())
    assert example
    image = dict(word.split("=", 1) for word in shlex.split(" ".join(instructions("ENV"))))
    for name, value in {**image, **COMPOSE["environment"]}.items():
        monkeypatch.setenv(name, re.sub(r"\$\{DCMPRESS_CALLERS:\?[^}]*\}", lambda _: example[1], value))
    config = load(PROJECT / "config.yaml")
    assert (config.dicom.bind, config.log.format) == ("0.0.0.0", "json")
    allowed = scp_settings(config).allow
    for title, host, enters in (
        ("CT1", "192.0.2.7", True),
        ("CT1", "198.51.100.7", False),
        ("DCMPRESS", "127.0.0.1", True),
        ("DCMPRESS", "192.0.2.7", False),
    ):
        assert any(caller.matches(title, host) for caller in allowed) == enters, (title, host)
    command = COMPOSE["healthcheck"]["test"]
    assert command[:3] == ["CMD", "dcmpress", "echo"]
    assert int(command[4]) == config.dicom.port == int(instructions("EXPOSE")[0])
    assert str(config.root) == "/var/lib/dcmpress"


def test_what_is_copied_is_there_and_not_ignored() -> None:
    ignored = (PROJECT / ".dockerignore").read_text().split()
    for line in instructions("COPY"):
        for source in line.split()[:-1]:
            assert (PROJECT / source).exists(), source
            assert source not in ignored


def test_volumes_are_where_the_node_writes() -> None:
    mounted = {volume.split(":")[1] for volume in COMPOSE["volumes"]}
    for folder in ("/var/lib/dcmpress", "/var/cache/dcmpress"):
        assert folder in mounted
        assert folder in instructions("VOLUME")[0]
