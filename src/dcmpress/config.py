"""The configuration: `config.yaml` and the environment, read once into frozen typed settings.

The environment wins over the file: `DCMPRESS_DICOM__PORT=11113` overrides `dicom.port`; maps and lists are
JSON there. An unknown or wrong key stops the start and is named with its line and the nearest valid key.
"""

import difflib
import os
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationError,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError

from dcmpress.codecs.registry import codec_names, get_codec
from dcmpress.config_problems import ENVIRONMENT_PREFIX, explain, useless_variables, variables_not_json
from dcmpress.storage import targets
from dcmpress.storage.compress import KEEPS_AS_RECEIVED
from dcmpress.storage.pipeline import RULE_ATTRIBUTES

DEFAULT_FILE = Path("config.yaml")

RELOADABLE = (
    "dicom.peers",
    "dicom.transfer_syntaxes",
    "dicom.allow",
    "dicom.accept_any_caller",
    "dicom.require_called_ae",
    "dicom.accept_private_sop_classes",
    "dicom.exchange_compressed",
    "dicom.max_associations",
    "dicom.association_timeout",
    "dicom.idle_timeout",
    "dicom.pdu_timeout",
    "dicom.response_timeout",
    "dicom.move_retry_seconds",
    "dicom.find_limit",
    "dicom.commitment",
    "compression.rules",
    "compression.previews",
    "pipeline.settle_seconds",
    "pipeline.job_timeout",
    "log.level",
    "log.patient_data",
)
"""Keys (with everything below them) that SIGHUP changes in a running node."""


class ConfigError(Exception):
    """The configuration cannot be used; the message has one line per problem."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _ae_title(title: Any) -> Any:
    if not isinstance(title, str):
        return title
    title = title.strip(" ")  # not significant at either end (PS3.5 table 6.2-1)
    if not (1 <= len(title) <= 16 and title.isascii() and title.isprintable() and "\\" not in title):
        raise ValueError("1 to 16 ASCII characters, no backslash, are wanted")
    return title


AETitle = Annotated[str, BeforeValidator(_ae_title)]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0)]


class TlsConfig(_Section):
    """Our certificate, and where to listen for TLS."""

    port: Annotated[int, Field(ge=0, le=65535)] = 0
    certificate: Path | None = None
    key: Path | None = None
    authorities: Path | None = None
    require_client_certificate: bool = True

    @model_validator(mode="after")
    def _complete(self) -> "TlsConfig":
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together")
        if self.port and self.certificate is None:
            raise ValueError("port: a TLS port needs a certificate and a key")
        if self.port and self.require_client_certificate and self.authorities is None:
            raise ValueError(
                "authorities: name who vouches for callers, or require_client_certificate: false"
            )
        return self


def _transfer_syntax(name: Any) -> Any:
    return targets.resolve(name) if isinstance(name, str) else name


TransferSyntax = Annotated[str, BeforeValidator(_transfer_syntax)]
"""A name or UID of `storage.targets`; the value is the UID."""


class PeerConfig(_Section):
    """An application entity that C-MOVE may send to."""

    ae_title: AETitle
    host: str = Field(min_length=1)
    port: Port
    tls: bool = False
    tls_name: str = ""
    associations: Annotated[int, Field(ge=1, le=32)] = 1
    transfer_syntaxes: tuple[TransferSyntax, ...] = ()


class AllowConfig(_Section):
    """A caller that may open an association."""

    ae_title: AETitle = "*"
    networks: tuple[Annotated[IPv4Network | IPv6Network, PlainValidator(ip_network)], ...] = ()


class CommitmentConfig(_Section):
    """Storage commitment."""

    policy: Literal["durable", "verified"] = "durable"
    give_up_hours: Annotated[float, Field(gt=0)] = 72.0


class DicomConfig(_Section):
    """The DICOM listener."""

    ae_title: AETitle = "DCMPRESS"
    bind: str = "127.0.0.1"
    port: Port = 11112
    tls: TlsConfig = Field(default_factory=TlsConfig)
    peers: Mapping[str, PeerConfig] = {}
    transfer_syntaxes: tuple[TransferSyntax, ...] = ()
    allow: tuple[AllowConfig, ...] = ()
    accept_any_caller: bool = False
    require_called_ae: bool = False
    accept_private_sop_classes: bool = True
    exchange_compressed: bool = True
    processes: Annotated[int, Field(ge=0, le=64)] = 1
    max_associations: Annotated[int, Field(ge=1)] = 100
    max_pdu: Annotated[int, Field(ge=4096, le=1 << 20)] = 131072
    association_timeout: Seconds = 30.0
    idle_timeout: Seconds = 300.0
    pdu_timeout: Seconds = 60.0
    response_timeout: Seconds = 120.0
    move_retry_seconds: Annotated[float, Field(ge=0)] = 30.0
    shutdown_timeout: Seconds = 30.0
    find_limit: Annotated[int, Field(ge=0)] = 0
    commitment: CommitmentConfig = Field(default_factory=CommitmentConfig)

    @model_validator(mode="after")
    def _listens_safely(self) -> "DicomConfig":
        if not self.allow and not self.accept_any_caller and not _is_loopback(self.bind):
            raise ValueError(
                f"bind: {self.bind} is open to the network: list who may call under dicom.allow, "
                "or set dicom.accept_any_caller: true"
            )
        return self

    @model_validator(mode="after")
    def _ports_differ(self) -> "DicomConfig":
        if self.tls.port == self.port:
            raise ValueError(f"tls.port: {self.port} is the plain port already")
        return self

    @model_validator(mode="after")
    def _peers_are_told_apart(self) -> "DicomConfig":
        names: dict[str, str] = {}
        for name, peer in self.peers.items():
            other = names.setdefault(peer.ae_title, name)
            if other != name:
                raise ValueError(f"peers: {other} and {name} have the same ae_title {peer.ae_title}")
            if peer.tls and self.tls.authorities is None:
                raise ValueError(
                    f"peers: {name} is called by TLS: name who vouches for it in dicom.tls.authorities"
                )
        return self


class StorageConfig(_Section):
    """Where things lie."""

    root: Path = Path("./data")
    catalog_url: str = ""
    blob_url: str = ""
    reserve_mib: Annotated[int, Field(ge=0)] = 2048
    on_conflict: Literal["keep-both", "reject", "replace"] = "keep-both"
    on_unreadable: Literal["keep", "refuse"] = "keep"

    @model_validator(mode="after")
    def _known_stores(self) -> "StorageConfig":
        scheme = self.blob_url.partition("://")[0] if "://" in self.blob_url else "file"
        if scheme != "file":
            raise ValueError(f"blob_url: {scheme} is not supported; give a folder")
        return self


class RetrievalConfig(_Section):
    """Images on their way out."""

    cache_mib: Annotated[int, Field(ge=0)] = 256
    disk_cache_gib: Annotated[float, Field(ge=0)] = 32.0


class PipelineConfig(_Section):
    """Compression behind the acknowledgement."""

    settle_seconds: Seconds = 10.0
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    job_timeout: Seconds = 7200.0
    group_mib: Annotated[int, Field(ge=1, le=4096)] = 256
    segment_mib: Annotated[int, Field(ge=1, le=1024)] = 16
    max_chain: Annotated[int, Field(ge=1, le=1024)] = 16
    min_correlation: Annotated[float, Field(ge=-1, le=1)] = 0.5
    recompress: bool = False


def _known_codec(name: Any) -> Any:
    if isinstance(name, str) and name not in codec_names():
        near = difflib.get_close_matches(name, codec_names(), 1)
        hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(codec_names())}"
        raise ValueError(f"no codec {name!r}{hint}")
    return name


def _check_lossless(name: str, parameters: Mapping[str, Any]) -> None:
    """Raise ValueError if there is no such codec with these parameters, or it is lossy."""
    if not get_codec(name, **parameters).lossless:
        raise ValueError(f"codec {name} is lossy; what is received is only ever kept lossless")


def _check_pixel_exact(codec: str, *, wanted: bool) -> None:
    if wanted and codec in KEEPS_AS_RECEIVED:
        raise ValueError(f"pixel_exact: {codec} keeps the bytes as they come; name a codec of images")


class _Rule(_Section):
    match: Mapping[str, str] = {}
    codec: Annotated[str, BeforeValidator(_known_codec)]
    effort: str | None = None
    parameters: Mapping[str, Any] = {}

    @model_validator(mode="after")
    def _matches_what_is_known(self) -> "_Rule":
        for attribute in self.match:
            if attribute not in RULE_ATTRIBUTES:
                near = difflib.get_close_matches(attribute, RULE_ATTRIBUTES, 1)
                hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(RULE_ATTRIBUTES)}"
                raise ValueError(f"cannot match on {attribute}{hint}")
        return self

    @property
    def codec_parameters(self) -> dict[str, Any]:
        """What the codec is made with."""
        effort = {} if self.effort is None else {"effort": self.effort}
        return {**effort, **self.parameters}


class RuleConfig(_Rule):
    """Which codec compresses what."""

    pixel_exact: bool = False

    @model_validator(mode="after")
    def _usable(self) -> "RuleConfig":
        _check_lossless(self.codec, self.codec_parameters)
        _check_pixel_exact(self.codec, wanted=self.pixel_exact)
        return self


class PreviewConfig(_Rule):
    """Which lossy codec makes previews of what, beside the lossless originals."""

    @model_validator(mode="after")
    def _usable(self) -> "PreviewConfig":
        if get_codec(self.codec, **self.codec_parameters).lossless:
            raise ValueError(f"codec {self.codec} is lossless: its preview would be the image once more")
        return self


class ColdConfig(_Section):
    """The codec of idle-time re-compression."""

    after_days: Annotated[float, Field(ge=0)] = 30.0
    codec: Annotated[str, BeforeValidator(_known_codec)] = "interframe"
    effort: str | None = "dense"
    parameters: Mapping[str, Any] = {}
    pixel_exact: bool = False

    @model_validator(mode="before")
    @classmethod
    def _effort_of_its_own_codec(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and values.get("codec", "interframe") != "interframe":
            return {"effort": None, **values}
        return values

    @model_validator(mode="after")
    def _usable(self) -> "ColdConfig":
        _check_lossless(self.codec, self.codec_parameters)
        _check_pixel_exact(self.codec, wanted=self.pixel_exact)
        return self

    @property
    def codec_parameters(self) -> dict[str, Any]:
        """What the codec is made with."""
        return {**({} if self.effort is None else {"effort": self.effort}), **self.parameters}


class CompressionConfig(_Section):
    """Which codec compresses what."""

    cold: ColdConfig = Field(default_factory=ColdConfig)
    previews: tuple[PreviewConfig, ...] = ()

    rules: tuple[RuleConfig, ...] = Field(
        default_factory=lambda: (RuleConfig(codec="interframe", effort="balanced"),)
    )


class WebConfig(_Section):
    """Where the web face will listen. There is none in this version; the names are settled."""

    bind: str = "127.0.0.1"
    port: Port = 8042


class LogConfig(_Section):
    """The log, on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"
    patient_data: bool = False


class Config(BaseSettings):
    """Everything that an admin can set."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True
    )

    dicom: DicomConfig = Field(default_factory=DicomConfig)
    storage: StorageConfig = Field(default_factory=StorageConfig)
    retrieval: RetrievalConfig = Field(default_factory=RetrievalConfig)
    pipeline: PipelineConfig = Field(default_factory=PipelineConfig)
    compression: CompressionConfig = Field(default_factory=CompressionConfig)
    web: WebConfig = Field(default_factory=WebConfig)
    log: LogConfig = Field(default_factory=LogConfig)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment first, then what the file says."""
        return env_settings, init_settings

    @property
    def root(self) -> Path:
        """The data folder, absolute."""
        return self.storage.root.absolute()

    @property
    def n_processes(self) -> int:
        """Processes that listen."""
        return self.dicom.processes or len(os.sched_getaffinity(0))

    @property
    def catalog_url(self) -> str:
        """SQLAlchemy URL of the catalog."""
        return self.storage.catalog_url or f"sqlite:///{self.root / 'catalog.sqlite'}"

    @property
    def blob_folder(self) -> Path:
        """The folder of the blobs, absolute."""
        url = self.storage.blob_url.removeprefix("file://")
        return Path(url).absolute() if url else self.root / "blobs"


def load(path: Path | None = None) -> Config:
    """Read the configuration from a file and the environment.

    Parameters
    ----------
    path : Path, optional
        None: `config.yaml` in the working directory if there is one, else the built-in defaults.

    Raises
    ------
    ConfigError
        With one line per problem: file, line, key, offending value, nearest valid key.
    """
    if path is None and DEFAULT_FILE.exists():
        path = DEFAULT_FILE
    if problems := list(useless_variables(Config)):
        raise ConfigError("\n".join(problems))
    tree = _read_yaml(path) if path is not None else CommentedMap()
    values = _plain(tree)
    if path is not None:
        _anchor_paths(values, path.absolute().parent)
    try:
        return Config(**values)
    except ValidationError as error:
        raise ConfigError(
            "\n".join(explain(problem, tree, path, Config) for problem in error.errors())
        ) from None
    except SettingsError:
        raise ConfigError("\n".join(variables_not_json(Config))) from None


def changed_keys(old: Config, new: Config) -> tuple[list[str], list[str]]:
    """Return the keys that differ: (those that a running node can take over, those that need a restart)."""
    before, after = dict(_leaves(old.model_dump())), dict(_leaves(new.model_dump()))
    changed = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
    now = [key for key in changed if any(key == r or key.startswith(r + ".") for r in RELOADABLE)]
    return now, [key for key in changed if key not in now]


def taken_over(old: Config, new: Config) -> Config:
    """Return what a running node that was started with `old` makes of `new`: only what can change does.

    Raises
    ------
    ConfigError
        If that does not go together, as an address that stays open to the network and nobody to allow.
    """
    kept = {section: getattr(old, section) for section in Config.model_fields}
    for section in kept:
        taken = {
            key.split(".")[1]: getattr(getattr(new, section), key.split(".")[1])
            for key in changed_keys(old, new)[0]
            if key.startswith(section + ".")
        }
        kept[section] = kept[section].model_copy(update=taken)
        try:
            type(kept[section]).model_validate(kept[section].model_dump())
        except ValidationError as error:
            problems = (problem["msg"].removeprefix("Value error, ") for problem in error.errors())
            raise ConfigError(
                f"what can change does not go with what stays until a restart: {'; '.join(problems)}"
            ) from None
    return old.model_copy(update=kept)


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping) and not prefix.startswith("dicom.peers."):  # a peer is one thing
        for key, value in tree.items():
            yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, tree


def _is_loopback(bind: str) -> bool:
    if bind == "localhost":
        return True
    try:
        return ip_address(bind).is_loopback
    except ValueError:
        return False


def _read_yaml(path: Path) -> CommentedMap:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8") from None
    try:
        tree = YAML(typ="rt").load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}{where}: {error.problem}") from None
    if tree is None:
        return CommentedMap()
    if not isinstance(tree, CommentedMap):
        raise ConfigError(f"{path}, line 1: a map of sections (dicom:, storage:, ...) is wanted")
    return tree


def _plain(tree: Any) -> Any:
    """Return ruamel's tree as ordinary objects; a section left empty means its defaults."""
    if isinstance(tree, CommentedMap):
        return {str(key): _plain(value) for key, value in tree.items() if value is not None}
    if isinstance(tree, CommentedSeq):
        return [_plain(value) for value in tree]
    return tree


def _anchor_paths(values: dict[str, Any], folder: Path) -> None:
    """Make the paths of a config file relative to that file."""
    dicom = values.get("dicom")
    files = dicom.get("tls") if isinstance(dicom, dict) else None
    if isinstance(files, dict):
        for name in ("certificate", "key", "authorities"):
            if isinstance(files.get(name), str):
                files[name] = str(folder / files[name])
    storage = values.setdefault("storage", {})
    if not isinstance(storage, dict):
        return
    root = storage.get("root", "./data")
    if isinstance(root, str):
        storage["root"] = str(folder / root)
    blob_url = storage.get("blob_url", "")
    if isinstance(blob_url, str) and blob_url and ("://" not in blob_url or blob_url.startswith("file://")):
        storage["blob_url"] = str(folder / blob_url.removeprefix("file://"))
    catalog_url = storage.get("catalog_url", "")
    if isinstance(catalog_url, str) and catalog_url.startswith("sqlite:///"):
        storage["catalog_url"] = f"sqlite:///{folder / catalog_url.removeprefix('sqlite:///')}"
