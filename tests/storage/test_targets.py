"""Which transfer syntax a receiver gets."""

import pytest

from dcmpress.storage.targets import (
    COMPRESSED,
    NAMES,
    STORED,
    TARGETS,
    UNCOMPRESSED,
    candidates,
    choice_at_negotiation,
    resolve,
    targets_for,
)

EXPLICIT, IMPLICIT, DEFLATED = UNCOMPRESSED
PREFIX = "1.2.840.10008.1.2."
RLE, BASELINE, JPEG_LS, JPEG_2000 = PREFIX + "5", PREFIX + "4.50", PREFIX + "4.80", PREFIX + "4.90"
HTJ2K, JPEG_XL = PREFIX + "4.201", PREFIX + "4.110"
CT, REPORT, SEGMENTATION = (f"1.2.840.10008.5.1.4.1.1.{n}" for n in ("2", "88.11", "66.4"))
SINGLE_BIT = "1.2.840.10008.5.1.4.1.1.7.1"


@pytest.mark.parametrize(
    ("stored", "accepted", "preferred", "best"),
    [
        (JPEG_LS, [IMPLICIT, JPEG_LS], [], [JPEG_LS, IMPLICIT]),
        (JPEG_LS, [IMPLICIT, EXPLICIT], [], [EXPLICIT, IMPLICIT]),
        (EXPLICIT, [JPEG_LS, IMPLICIT, HTJ2K], [], [IMPLICIT, HTJ2K, JPEG_LS]),
        (EXPLICIT, [JPEG_LS], [], [JPEG_LS]),
        (EXPLICIT, [BASELINE], [], []),
        (EXPLICIT, [EXPLICIT, JPEG_LS, JPEG_XL], [JPEG_XL, JPEG_LS], [JPEG_XL, JPEG_LS, EXPLICIT]),
        (JPEG_2000, [JPEG_2000, JPEG_LS], [JPEG_LS], [JPEG_LS, JPEG_2000]),
        (JPEG_2000, [JPEG_2000, JPEG_LS], [STORED, JPEG_LS], [JPEG_2000, JPEG_LS]),
        (JPEG_2000, [EXPLICIT, JPEG_LS], [STORED, JPEG_LS], [JPEG_LS, EXPLICIT]),
        (BASELINE, [BASELINE, JPEG_LS], [JPEG_LS], [BASELINE, JPEG_LS]),
        (BASELINE, [EXPLICIT, JPEG_LS], [JPEG_LS], [JPEG_LS, EXPLICIT]),
    ],
)
def test_order(stored: str, accepted: list[str], preferred: list[str], best: list[str]) -> None:
    assert candidates(stored, accepted, preferred) == best


def test_only_classes_with_frames_are_offered_compressed() -> None:
    assert targets_for(CT) == TARGETS
    assert targets_for("1.3.12.2.1107.5.9.1") == TARGETS  # a manufacturer's own
    for sop_class in (REPORT, SEGMENTATION, SINGLE_BIT):
        assert targets_for(sop_class) == UNCOMPRESSED


@pytest.mark.parametrize(
    ("sop_class", "proposed", "preferred", "order"),
    [
        (CT, [JPEG_LS, EXPLICIT, IMPLICIT], [], [JPEG_LS]),
        (CT, [EXPLICIT, JPEG_LS], [], []),
        (CT, [BASELINE, EXPLICIT], [], []),
        (CT, [IMPLICIT, EXPLICIT, JPEG_LS], [], []),
        (REPORT, [DEFLATED, EXPLICIT], [], [DEFLATED]),
        (CT, [EXPLICIT, JPEG_LS, RLE], [JPEG_XL, RLE, JPEG_LS], [RLE, JPEG_LS]),
        (CT, [JPEG_LS, EXPLICIT], [EXPLICIT], [EXPLICIT]),
        (REPORT, [JPEG_LS, EXPLICIT], [], []),
        (REPORT, [JPEG_LS, DEFLATED, EXPLICIT], [JPEG_LS, DEFLATED], [DEFLATED]),
    ],
)
def test_one_context_with_several_syntaxes(
    sop_class: str, proposed: list[str], preferred: list[str], order: list[str]
) -> None:
    assert choice_at_negotiation(sop_class, proposed, preferred) == order


def test_names() -> None:
    assert {resolve(name) for name in NAMES} <= set(TARGETS)
    assert resolve(RLE) == RLE
    assert resolve("stored") == STORED
    assert set(COMPRESSED) < {resolve(uid) for uid in TARGETS}
    with pytest.raises(ValueError, match="did you mean jpeg-ls"):
        resolve("jpegls")
    with pytest.raises(ValueError, match="htj2k"):
        resolve("webp")
