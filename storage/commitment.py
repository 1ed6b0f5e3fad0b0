"""What the node can promise of instances when it is asked to commit itself to their storage (PS3.4 Annex J).

Modalities delete their images on this answer, so it is given instance by instance, from what is on the disk.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from dcmpress.storage.archive import Archive

Policy = Literal["durable", "verified"]
"""durable: an instance counts when its bytes would survive a power cut, which they do once it is acknowledged.
verified: only when its compressed form has been decoded and its SHA-256 confirmed."""

PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_OBJECT_INSTANCE: Final = 0x0112
CLASS_INSTANCE_CONFLICT: Final = 0x0119
"""Failure Reasons (0008,1197), PS3.3 table C.14-1."""


@dataclass
class Judgement:
    """What is promised of the instances of one request."""

    committed: list[tuple[str, str]] = field(default_factory=list)
    """(SOP class UID, SOP instance UID)."""
    failed: list[tuple[str, str, int]] = field(default_factory=list)
    """The same, with the failure reason."""
    undecided: list[tuple[str, str]] = field(default_factory=list)
    """Safe, but not verified yet, which is what the policy asks for."""


def judge(archive: Archive, references: Iterable[tuple[str, str]], policy: Policy) -> Judgement:
    """Tell which instances are kept and sound; the catalog's word is checked against the disk."""
    judgement = Judgement()
    for sop_class, uid in references:
        located = archive.catalog.current_version(uid)
        if located is None:
            judgement.failed.append((sop_class, uid, NO_SUCH_OBJECT_INSTANCE))
        elif located.sop_class_uid != sop_class:
            judgement.failed.append((sop_class, uid, CLASS_INSTANCE_CONFLICT))
        elif not archive.committed(uid):
            judgement.failed.append((sop_class, uid, PROCESSING_FAILURE))
        elif policy == "verified" and located.spool_name is not None:
            judgement.undecided.append((sop_class, uid))
        else:
            judgement.committed.append((sop_class, uid))
    return judgement
