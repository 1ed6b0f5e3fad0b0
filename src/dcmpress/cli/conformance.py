"""`dcmpress conformance`: the DICOM Conformance Statement (PS3.2), from the code and the configuration."""

from importlib.resources import files
from string import Template

from pydicom.uid import UID
from pynetdicom.sop_class import _STORAGE_CLASSES

from dcmpress import __version__
from dcmpress.cli.app import ConfigOption, app, load_config, out
from dcmpress.config import Config
from dcmpress.scp.contexts import (
    FIND_CLASSES,
    GET_CLASSES,
    MOVE_CLASSES,
    QUERY_SYNTAXES,
    STORAGE_COMMITMENT,
    STORAGE_SYNTAXES,
    VERIFICATION,
    supported_context,
)
from dcmpress.storage.catalog.attributes import ATTRIBUTES, Level
from dcmpress.storage.part10 import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from dcmpress.storage.targets import COMPRESSED, UNCOMPRESSED

TEMPLATE = "conformance.md"
"""The statement's text, beside this module; what can drift from the code is filled in."""


@app.command()
def conformance(config: ConfigOption = None) -> None:
    """Print the DICOM Conformance Statement of a node with this configuration, as Markdown."""
    out.print(statement(load_config(config)), markup=False, end="")


def statement(config: Config) -> str:
    """Return the Conformance Statement in the structure of PS3.2 Annex A."""
    dicom = config.dicom
    template = Template(files("dcmpress.cli").joinpath(TEMPLATE).read_text(encoding="utf-8"))
    return template.substitute(
        version=__version__,
        ae_title=dicom.ae_title,
        port=f"{dicom.port}, TLS {dicom.tls.port}" if dicom.tls.port else str(dicom.port),
        class_uid=IMPLEMENTATION_CLASS_UID,
        version_name=IMPLEMENTATION_VERSION_NAME,
        max_pdu=dicom.max_pdu,
        max_associations=dicom.max_associations,
        services="\n".join(_services(config)),
        n_storage_classes=len(_STORAGE_CLASSES),
        private="accepted" if dicom.accept_private_sop_classes else "refused",
        list_a=", ".join(_named(uid) for uid in QUERY_SYNTAXES),
        list_b="\n".join(f"- {_named(uid)}" for uid in STORAGE_SYNTAXES),
        attributes="\n".join(_attributes(level) for level in Level),
        uncompressed=", ".join(UID(uid).name for uid in UNCOMPRESSED),
        compressed="\n".join(f"- {_named(uid)}" for uid in COMPRESSED),
        move_retry=f"{dicom.move_retry_seconds:g}",
        policy=dicom.commitment.policy,
        hours=f"{dicom.commitment.give_up_hours:g}",
        storage_classes="\n".join(f"- {_named(uid)}" for uid in sorted(_STORAGE_CLASSES.values())),
    )


def _services(config: Config) -> list[str]:
    rows = []
    for uid in (VERIFICATION, *sorted(FIND_CLASSES | GET_CLASSES | MOVE_CLASSES), STORAGE_COMMITMENT):
        context = supported_context(uid, config.dicom.accept_private_sop_classes)
        assert context is not None
        all_of_them = len(context.transfer_syntax) == len(QUERY_SYNTAXES)
        rows.append(f"| {_named(uid)} | {'list A' if all_of_them else 'list A, the first two'} | SCP |")
    return rows


def _attributes(level: Level) -> str:
    return f"- {level.name}: " + ", ".join(a.keyword for a in ATTRIBUTES if a.level == level)


def _named(uid: str) -> str:
    return f"{UID(uid).name} ({uid})"
