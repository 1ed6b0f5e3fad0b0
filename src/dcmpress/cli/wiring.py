"""From the configuration to the settings of each room."""

from collections.abc import Sequence

from dcmpress.config import Config, PreviewConfig, RuleConfig
from dcmpress.scp.settings import AllowedCaller, Peer, ScpSettings
from dcmpress.scp.tls import TlsFiles
from dcmpress.storage.archive import Archive, ArchiveSettings
from dcmpress.storage.compress import CodecChoice
from dcmpress.storage.errors import MissingError
from dcmpress.storage.pipeline import CompressionRule, PipelineSettings


def archive_settings(config: Config) -> ArchiveSettings:
    """Return what the archive needs to know."""
    return ArchiveSettings(
        root=config.root,
        catalog_url=config.catalog_url,
        blob_folder=config.blob_folder,
        reserve=config.storage.reserve_mib << 20,
        on_conflict=config.storage.on_conflict,
        on_unreadable=config.storage.on_unreadable,
        cache_bytes=config.retrieval.cache_mib << 20,
        disk_cache_bytes=int(config.retrieval.disk_cache_gib * (1 << 30)),
    )


def pipeline_settings(config: Config) -> PipelineSettings:
    """Return what the pipeline needs to know."""
    pipeline = config.pipeline
    return PipelineSettings(
        settle_seconds=pipeline.settle_seconds,
        group_bytes=pipeline.group_mib << 20,
        workers=pipeline.workers,
        job_seconds=pipeline.job_timeout,
        max_chain=pipeline.max_chain,
        min_correlation=pipeline.min_correlation,
        segment_bytes=pipeline.segment_mib << 20,
        rules=_rules(config.compression.rules),
        previews=_rules(config.compression.previews),
    )


def _rules(rules: Sequence[RuleConfig | PreviewConfig]) -> tuple[CompressionRule, ...]:
    return tuple(
        CompressionRule(
            CodecChoice(
                rule.codec,
                rule.codec_parameters,
                pixel_exact=isinstance(rule, RuleConfig) and rule.pixel_exact,
            ),
            dict(rule.match),
        )
        for rule in rules
    )


def scp_settings(config: Config) -> ScpSettings:
    """Return what the DICOM listener needs to know."""
    dicom = config.dicom
    return ScpSettings(
        ae_title=dicom.ae_title,
        bind=dicom.bind,
        port=dicom.port,
        peers=tuple(
            Peer(
                peer.ae_title,
                peer.host,
                peer.port,
                peer.tls,
                peer.tls_name,
                peer.associations,
                peer.transfer_syntaxes,
            )
            for peer in dicom.peers.values()
        ),
        transfer_syntaxes=dicom.transfer_syntaxes,
        allow=tuple(AllowedCaller(caller.ae_title, caller.networks) for caller in dicom.allow),
        require_called_ae=dicom.require_called_ae,
        tls_port=dicom.tls.port,
        tls_files=tls_files(config),
        tls_require_certificate=dicom.tls.require_client_certificate,
        accept_private_sop_classes=dicom.accept_private_sop_classes,
        exchange_compressed=dicom.exchange_compressed,
        max_associations=dicom.max_associations,
        max_pdu=dicom.max_pdu,
        association_timeout=dicom.association_timeout,
        idle_timeout=dicom.idle_timeout,
        pdu_timeout=dicom.pdu_timeout,
        response_timeout=dicom.response_timeout,
        move_retry_seconds=dicom.move_retry_seconds,
        shutdown_timeout=dicom.shutdown_timeout,
        find_limit=dicom.find_limit,
        commitment_policy=dicom.commitment.policy,
        commitment_hours=dicom.commitment.give_up_hours,
    )


def tls_files(config: Config) -> TlsFiles | None:
    """Return our certificate, if there is one."""
    files = config.dicom.tls
    if files.certificate is None or files.key is None:
        return None
    return TlsFiles(files.certificate, files.key, files.authorities)


def open_archive(config: Config) -> Archive:
    """Open the archive of a configuration."""
    return Archive(archive_settings(config))


def open_existing_archive(config: Config) -> Archive:
    """Open the archive of a configuration, for commands that would say nothing of use about a new, empty one.

    Raises
    ------
    StorageError
        If there is none in the data folder.
    """
    if not (config.root / "spool").is_dir():
        raise MissingError(f"there is no archive in {config.root}; name its configuration with --config")
    return open_archive(config)
