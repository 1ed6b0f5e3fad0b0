"""`dcmpress conformance`: the DICOM Conformance Statement (PS3.2), from the code and the configuration."""

from collections.abc import Iterator

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
from dcmpress.storage.transcode import TARGETS


@app.command()
def conformance(config: ConfigOption = None) -> None:
    """Print the DICOM Conformance Statement of a node with this configuration, as Markdown."""
    out.print(statement(load_config(config)), markup=False, end="")


def statement(config: Config) -> str:
    """Return the Conformance Statement in the structure of PS3.2 Annex A."""
    return "\n".join(_lines(config)) + "\n"


def _lines(config: Config) -> Iterator[str]:
    dicom = config.dicom
    yield "# DICOM Conformance Statement"
    yield ""
    yield f"Product: dcmpress {__version__}, an archive node. Written by `dcmpress conformance`."
    yield ""
    yield "## 1 Overview"
    yield ""
    yield "dcmpress receives composite instances, keeps them losslessly compressed, answers queries, sends them"
    yield "on request, and commits itself to their storage. What was received is given out byte for byte whenever"
    yield "the receiver accepts the transfer syntax in which it came."
    yield ""
    yield "| Network service | as SCU | as SCP |"
    yield "|---|---|---|"
    yield "| Verification | yes (`dcmpress echo`, `config check`) | yes |"
    yield "| Storage | yes (sub-operations of C-GET and C-MOVE) | yes |"
    yield "| Query/Retrieve, Patient Root and Study Root: FIND, GET, MOVE | no | yes |"
    yield "| Storage Commitment Push Model | no | yes |"
    yield ""
    yield "## 2 Application entity"
    yield ""
    yield "| | |"
    yield "|---|---|"
    yield f"| AE title | {dicom.ae_title} |"
    yield f"| Port | {dicom.port}" + (f", TLS {dicom.tls.port}" if dicom.tls.port else "") + " |"
    yield "| Application context | 1.2.840.10008.3.1.1.1 |"
    yield f"| Implementation class UID | {IMPLEMENTATION_CLASS_UID} |"
    yield f"| Implementation version name | {IMPLEMENTATION_VERSION_NAME} |"
    yield f"| Maximum PDU received | {dicom.max_pdu} bytes |"
    yield f"| Associations at a time | {dicom.max_associations}; more are rejected (transient, local limit) |"
    yield "| Asynchronous operations | not supported: one operation at a time |"
    yield "| Extended negotiation | relational queries and retrievals |"
    yield "| User identity | a response is given if asked for; the identity is not looked at |"
    yield ""
    yield "### 2.1 Accepted presentation contexts"
    yield ""
    yield "Of several transfer syntaxes in one context the first in these lists is chosen."
    yield ""
    yield "| Abstract syntax | Transfer syntaxes | Role |"
    yield "|---|---|---|"
    for uid in (VERIFICATION, *sorted(FIND_CLASSES | GET_CLASSES | MOVE_CLASSES), STORAGE_COMMITMENT):
        context = supported_context(uid, dicom.accept_private_sop_classes)
        assert context is not None
        syntaxes = "list A" if len(context.transfer_syntax) == len(QUERY_SYNTAXES) else "list A, first two"
        yield f"| {UID(uid).name} ({uid}) | {syntaxes} | SCP |"
    yield f"| each of the {len(_STORAGE_CLASSES)} storage SOP classes below, and retired ones | list B | SCP; SCU by role selection |"
    private = "accepted" if dicom.accept_private_sop_classes else "refused"
    yield f"| private and unknown SOP classes ({private}) | list B | SCP; SCU by role selection |"
    yield ""
    yield "List A: " + ", ".join(f"{UID(uid).name} ({uid})" for uid in QUERY_SYNTAXES) + "."
    yield ""
    yield "List B:"
    yield ""
    for uid in STORAGE_SYNTAXES:
        yield f"- {UID(uid).name} ({uid})"
    yield ""
    yield "### 2.2 Storage as SCP"
    yield ""
    yield "Level 2 (full): every element is kept. Success means that the instance survives a power cut."
    yield ""
    yield "| Status | Meaning |"
    yield "|---|---|"
    yield "| 0000 | kept, or kept already with these very bytes |"
    yield "| A700 | free disk space is under the reserve, or the disk is full; acceptance resumes by itself |"
    yield "| A900 | SOP class or instance UID in the data set differ from the request's |"
    yield "| C000 | the data set cannot be read, and `storage.on_unreadable` is `refuse`; or there is none |"
    yield "| 0111 | another data set has this SOP Instance UID, and `storage.on_conflict` is `reject` |"
    yield "| 0117 | no usable SOP class or instance UID in the request |"
    yield "| 0122 | the presentation context is of no storage SOP class |"
    yield "| 0110 | anything else; nothing is kept |"
    yield ""
    yield "### 2.3 Query as SCP"
    yield ""
    yield "Single value, list of UID, universal, wildcard and range matching (PS3.4 C.2.2.2). Person names match"
    yield "without regard to case and accents. Queries are hierarchical unless relational ones are negotiated."
    yield "Attributes that can be matched and are returned; others come back empty:"
    yield ""
    for level in Level:
        names = ", ".join(a.keyword for a in ATTRIBUTES if a.level == level)
        yield f"- {level.name}: {names}"
    yield ""
    yield "Specific Character Set of answers: the request's own if it can hold every value, else ISO_IR 192."
    yield ""
    yield "### 2.4 Retrieve as SCP"
    yield ""
    yield "Instances go out in the transfer syntax in which they came if the receiver accepts it, else in"
    yield (
        " or ".join(UID(uid).name for uid in TARGETS)
        + ", decompressed if need be. An instance that cannot be"
    )
    yield "read, converted or delivered is counted as failed and listed in Failed SOP Instance UID List."
    yield "C-CANCEL is heard after each sub-operation. C-MOVE proposes a presentation context for each pair of SOP"
    yield "class and transfer syntax, over several associations if more than 128 are needed, and names the"
    yield "requestor as move originator. Destinations are those of `dicom.peers`; others get A801."
    yield ""
    yield "### 2.5 Storage commitment as SCP"
    yield ""
    yield f"An instance counts by the policy `{dicom.commitment.policy}` of `dicom.commitment.policy`. The report comes on a"
    yield "new association if the requestor is in `dicom.peers`, else on the association of the request. It is"
    yield f"retried, over restarts too, for {dicom.commitment.give_up_hours:g} hours. Failure reasons: 0110, 0112, 0119."
    yield ""
    yield "## 3 Communication profiles"
    yield ""
    yield "TCP/IP, IPv4 or IPv6. Certificates of both sides are checked on the TLS port (BCP 195: TLS 1.2 or newer)."
    yield ""
    yield "## 4 Character sets"
    yield ""
    yield "All of PS3.3 C.12.1.1.2, with code extensions. Data sets are never re-encoded on receipt."
    yield ""
    yield "## 5 Storage SOP classes"
    yield ""
    for uid in sorted(_STORAGE_CLASSES.values()):
        yield f"- {UID(uid).name} ({uid})"
