"""Which transfer syntaxes instances can be given out in, and in which order they are tried for a receiver."""

import difflib
from collections.abc import Sequence

from pydicom.uid import UID_dictionary as REGISTERED_UIDS

from dcmpress.storage.elements import (
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
)

_PREFIX = "1.2.840.10008.1.2."

UNCOMPRESSED = (
    EXPLICIT_VR_LITTLE_ENDIAN,
    IMPLICIT_VR_LITTLE_ENDIAN,
    DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
)
"""Transfer syntaxes that any readable data set can be given out in, in order of preference."""

COMPRESSED = {
    f"{_PREFIX}4.201": "htj2k",
    f"{_PREFIX}4.202": "htj2k-rpcl",
    f"{_PREFIX}4.80": "jpeg-ls",
    f"{_PREFIX}4.90": "jpeg-2000",
    f"{_PREFIX}4.110": "jpeg-xl",
    f"{_PREFIX}4.70": "jpeg-lossless",
    f"{_PREFIX}4.57": "jpeg-lossless",  # any process 14 stream; selection value 1 is one of them
    f"{_PREFIX}5": "run-length",
}
"""Transfer syntax -> format of its frames (`encode_foreign`), in order of preference. All lossless."""

TARGETS = (*UNCOMPRESSED, *COMPRESSED)

STORED = "stored"
"""In a list of preferences: the transfer syntax in which the instance came, byte for byte."""

NAMES = {
    "explicit": EXPLICIT_VR_LITTLE_ENDIAN,
    "implicit": IMPLICIT_VR_LITTLE_ENDIAN,
    "deflated": DEFLATED_EXPLICIT_VR_LITTLE_ENDIAN,
    "rle": f"{_PREFIX}5",
    "jpeg-lossless": f"{_PREFIX}4.70",
    "jpeg-ls": f"{_PREFIX}4.80",
    "jpeg-2000": f"{_PREFIX}4.90",
    "htj2k": f"{_PREFIX}4.201",
    "htj2k-rpcl": f"{_PREFIX}4.202",
    "jpeg-xl": f"{_PREFIX}4.110",
}
"""Names of transfer syntaxes in the configuration; the UIDs of TARGETS do as well."""

LOSSY = frozenset(
    f"{_PREFIX}4.{n}"
    for n in (*range(50, 57), *range(59, 65), 81, 91, 93, *range(100, 109), 111, 112, 203, 205)
)
"""Transfer syntaxes whose frames may have been changed by compression."""

_NOT_FOR_FRAMES = "Single Bit"
"""In the name of a class of images that no still-image format of COMPRESSED takes."""


def resolve(name: str) -> str:
    """Return the UID that a word of the configuration means, or STORED.

    Raises
    ------
    ValueError
        With the nearest name, if it means none that instances can be given out in.
    """
    if name == STORED or name in TARGETS:
        return name
    if name in NAMES:
        return NAMES[name]
    near = difflib.get_close_matches(name, [STORED, *NAMES], 1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join([STORED, *NAMES])}"
    raise ValueError(f"no transfer syntax {name!r} to send; {hint}")


def targets_for(sop_class_uid: str) -> tuple[str, ...]:
    """Return what instances of a SOP class may be given out in, besides the syntax in which they came.

    The encapsulated syntaxes are for data sets with Pixel Data alone (PS3.5 A.4). A class that is not in
    the standard may have it.
    """
    entry = REGISTERED_UIDS.get(sop_class_uid)
    if entry is None or ("Image Storage" in entry[0] and _NOT_FOR_FRAMES not in entry[0]):
        return TARGETS
    return UNCOMPRESSED


def candidates(stored: str, accepted: Sequence[str], preferred: Sequence[str] = ()) -> list[str]:
    """Return the transfer syntaxes to try for an instance, the best first.

    Parameters
    ----------
    stored : str
        Transfer syntax in which it came.
    accepted : sequence of str
        Those that the receiver takes.
    preferred : sequence of str
        UIDs of TARGETS or STORED, from the configuration. What it does not list comes after: as stored,
        uncompressed, compressed.

    What came compressed with loss goes out as it came if the receiver takes that, whatever is preferred:
    any lossless form of the same pixels is several times larger.
    """
    listed = [stored if uid == STORED else uid for uid in preferred]
    order = [stored, *listed] if stored in LOSSY else [*listed, stored]
    return [uid for uid in dict.fromkeys([*order, *TARGETS]) if uid in accepted]


def choice_at_negotiation(
    sop_class_uid: str, proposed: Sequence[str], preferred: Sequence[str] = ()
) -> list[str]:
    """Return in which order to accept the transfer syntaxes of a presentation context in which we send.

    A requestor of C-GET may propose several in one context, and whichever is accepted goes for every
    instance of the class. The configuration counts first. Else a requestor that names a compressed or the
    deflated syntax before all others is believed to want it.
    """
    possible = targets_for(sop_class_uid)
    listed = [uid for uid in preferred if uid in possible]
    wish = proposed[0] if proposed else ""
    if not listed and wish in possible and wish not in (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN):
        listed = [wish]
    return [uid for uid in listed if uid in proposed]
