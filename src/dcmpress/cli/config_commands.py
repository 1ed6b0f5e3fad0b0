"""`dcmpress config check`: would a node with this configuration work?"""

import contextlib
import os
import socket
import tempfile
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Annotated

import typer
from ruamel.yaml import YAML
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from dcmpress.cli.app import FAILED, MISUSED, ConfigOption, app, fail, load_config, out
from dcmpress.cli.sustained import compression_rates
from dcmpress.cli.wiring import open_archive, pipeline_settings, scp_settings, tls_files
from dcmpress.codecs.jit import CACHE_FOLDER
from dcmpress.codecs.registry import get_codec
from dcmpress.codecs.warm import warm, warm_restorable
from dcmpress.config import Config
from dcmpress.scp.echo import echo
from dcmpress.scp.errors import NetworkError
from dcmpress.scp.settings import Peer
from dcmpress.scp.tls import acceptor
from dcmpress.storage.compress import CodecChoice
from dcmpress.storage.errors import StorageError

config_app = typer.Typer(no_args_is_help=True, help="Look at the configuration.")
app.add_typer(config_app, name="config")


@app.command("echo")
def echo_(
    host: Annotated[str, typer.Argument(metavar="HOST", help="Host name or address.")],
    port: Annotated[int, typer.Argument(metavar="PORT", help="TCP port.", min=1, max=65535)],
    called: Annotated[str, typer.Option(help="AE title of the peer.")] = "DCMPRESS",
    calling: Annotated[str, typer.Option(help="Our AE title.")] = "DCMPRESS",
) -> None:
    """Ask a DICOM node whether it is there (C-ECHO). Exit code 1 if it does not answer."""
    for title in (called, calling):
        if not 1 <= len(title.strip()) <= 16:
            raise fail(f"{title!r} is no AE title: 1 to 16 characters", MISUSED)
    try:
        took = echo(Peer(called, host, port), calling)
    except NetworkError as error:
        raise fail(str(error)) from None
    out.print(f"{called} answers in {took * 1000:.0f} ms")


@app.command("warm")
def warm_(config: ConfigOption = None) -> None:
    """Compile the kernels of every codec that the rules name, and of what restores images that arrive compressed,
    so that no image waits for the compiler.

    The node does this by itself when it starts; an installation can do it beforehand.
    """
    settings = load_config(config)
    try:
        for rule in settings.compression.rules:
            warm(get_codec(rule.codec, **rule.codec_parameters))
        warm_restorable()
    except ValueError as error:
        raise fail(str(error)) from None
    if CACHE_FOLDER is None:
        out.print("no cache folder can be written to: kernels are compiled at every start")
    else:
        out.print(f"compiled kernels are in {CACHE_FOLDER}", markup=False)


@config_app.command()
def show(config: ConfigOption = None) -> None:
    """Print the configuration that is in force: the file, the environment and the defaults, as one YAML file.

    A password in the catalog's URL is not shown.
    """
    settings = load_config(config)
    values = settings.model_dump(mode="json", exclude_none=True)
    values["storage"]["root"] = str(settings.root)
    with contextlib.suppress(ArgumentError):
        values["storage"]["catalog_url"] = make_url(settings.catalog_url).render_as_string()
    text = StringIO()
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(values, text)
    out.print(text.getvalue(), end="", markup=False)


@config_app.command()
def check(
    config: ConfigOption = None,
    ingest: Annotated[
        float, typer.Option(metavar="MB/S", help="Megabytes a second that keep coming in.", min=0)
    ] = 0,
) -> None:
    """Check the configuration and everything it names: folders, catalog, port, codecs, every peer by C-ECHO.

    Then measure how much the workers can compress, and say whether that keeps up with --ingest. Exit code 1 if
    something does not work or does not keep up, 2 if the configuration itself is wrong.
    """
    settings = load_config(config)
    checks: list[tuple[str, Callable[[], str]]] = [
        (f"data folder {settings.root}", lambda: _folder(settings.root, settings)),
        (f"blob folder {settings.blob_folder}", lambda: _folder(settings.blob_folder, settings)),
        ("catalog", lambda: _catalog(settings)),
        (
            f"port {settings.dicom.port} on {settings.dicom.bind}",
            lambda: _port(settings, settings.dicom.port),
        ),
    ]
    if settings.dicom.tls.port:
        what = f"TLS port {settings.dicom.tls.port} on {settings.dicom.bind}"
        checks.append((what, lambda: _tls_port(settings)))
    for rule in settings.compression.rules:
        codec = rule.codec + (f" {rule.effort}" if rule.effort else "")
        checks.append((f"codec {codec}", lambda rule=rule: _codec(rule.codec, rule.codec_parameters)))  # type: ignore[misc]
    for peer in scp_settings(settings).peers:
        what = f"peer {peer.ae_title} at {peer.host} port {peer.port}"
        checks.append((what, lambda peer=peer: _peer(peer, settings)))  # type: ignore[misc]
    failures = 0
    checks.append(("compression", lambda: _compression(settings, ingest)))
    for what, test in checks:
        try:
            out.print(f"ok      {what}: {test()}", markup=False, soft_wrap=True)
        except (OSError, NetworkError, StorageError, ValueError, AssertionError) as error:
            failures += 1
            out.print(f"FAILED  {what}: {error}", markup=False, soft_wrap=True)
    if not settings.dicom.peers:
        out.print("note    dicom.peers is empty: C-MOVE has no destinations", markup=False)
    if settings.dicom.accept_any_caller and not settings.dicom.allow:
        out.print(
            "note    dicom.accept_any_caller: whoever reaches the port may send and query", markup=False
        )
    if failures:
        raise typer.Exit(FAILED)


def _compression(settings: Config, ingest: float) -> str:
    """Return what the workers can sustain; raise ValueError if that is less than what comes in."""
    rules = pipeline_settings(settings).rules
    chosen = list({str(rule.choice): rule.choice for rule in rules}.values())
    efforts = [CodecChoice("interframe", {"effort": effort}) for effort in ("fast", "balanced")]
    choices = [*chosen, *(effort for effort in efforts if effort not in chosen)]
    workers = min(settings.pipeline.workers, os.cpu_count() or 1)
    rates = [workers * rate for rate in compression_rates(choices)]
    by = f"{workers} worker{'s' * (workers > 1)}"
    text = f"{by} sustain{'s' * (workers == 1)} " + ", ".join(
        f"{rate:.0f} MB/s by {_name(choice)}" for choice, rate in zip(choices, rates, strict=True)
    )
    slow = [choice for choice, rate in zip(chosen, rates, strict=False) if rate < ingest]
    if slow:
        keep_up = [_name(choice) for choice, rate in zip(choices, rates, strict=True) if rate >= ingest]
        advice = f"use {' or '.join(keep_up)}" if keep_up else "more cores and pipeline.workers are needed"
        raise ValueError(f"{text}; {ingest:g} MB/s coming in is too much for {_name(slow[0])}: {advice}")
    return text


def _name(choice: CodecChoice) -> str:
    return " ".join([choice.codec, *map(str, choice.parameters.values())])


def _peer(peer: Peer, settings: Config) -> str:
    took = echo(peer, settings.dicom.ae_title, tls_files=tls_files(settings))
    return f"answers C-ECHO in {took * 1000:.0f} ms"


def _folder(folder: Path, settings: Config) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())
    stat = os.statvfs(folder)
    free = stat.f_bavail * stat.f_frsize >> 20
    if free < settings.storage.reserve_mib:
        raise StorageError(
            f"{free} MiB are free; storage.reserve_mib asks for {settings.storage.reserve_mib}"
        )
    return f"writable, {free} MiB free"


def _catalog(settings: Config) -> str:
    archive = open_archive(settings)
    try:
        return f"{archive.catalog.statistics().instances} instances"
    finally:
        archive.close()


def _tls_port(settings: Config) -> str:
    files = tls_files(settings)
    assert files is not None  # the configuration would not have been read
    acceptor(files, require_certificate=settings.dicom.tls.require_client_certificate)
    return _port(settings, settings.dicom.tls.port)


def _port(settings: Config, port: int) -> str:
    family = socket.AF_INET6 if ":" in settings.dicom.bind else socket.AF_INET
    try:
        with socket.create_server((settings.dicom.bind, port), family=family):
            return "free"
    except OSError as error:
        with socket.socket(family) as probe:
            if probe.connect_ex((settings.dicom.bind, port)) == 0:
                return "in use: by a running node?"
        raise error


def _codec(name: str, parameters: dict[str, object]) -> str:
    codec = get_codec(name, **parameters)
    warm(codec)
    return "gives back what it is given"
