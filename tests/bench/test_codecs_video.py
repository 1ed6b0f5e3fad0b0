"""The video peers give every sample back."""

import numpy as np
import pytest
from bench.codecs_video import Ffv1, VideoCodec, X265Lossless


def _frames(dtype: str, least: int, span: int) -> np.ndarray:
    rng = np.random.default_rng(span)
    return (least + rng.integers(0, span, (5, 45, 67))).astype(dtype)


@pytest.mark.parametrize("codec", [Ffv1(), X265Lossless()], ids=lambda codec: codec.codec_id)
@pytest.mark.parametrize(
    ("dtype", "least", "span"),
    [("uint8", 0, 256), ("int8", -128, 256), ("uint16", 30_000, 1024), ("int16", -1024, 4096)],
)
def test_frames_come_back(codec: VideoCodec, dtype: str, least: int, span: int) -> None:
    frames = _frames(dtype, least, span)
    decoded = codec.decode(codec.encode(frames))
    assert decoded.dtype == frames.dtype
    np.testing.assert_array_equal(decoded, frames)


def test_ffv1_takes_all_of_16_bits() -> None:
    frames = _frames("int16", -32_768, 65_536)
    np.testing.assert_array_equal(Ffv1().decode(Ffv1().encode(frames)), frames)


def test_x265_refuses_more_than_12_bits() -> None:
    with pytest.raises(ValueError, match="12 bits"):
        X265Lossless().encode(_frames("uint16", 0, 1 << 14))
