"""The interframe codec, efforts of the forward core."""

import pytest

from dcmpress.codecs.interframe.codec import InterframeCodec
from tests.codecs import checks


@pytest.mark.parametrize("effort", ["fast", "balanced"])
def test_keeps_the_contract(effort: str) -> None:
    checks.check_codec(InterframeCodec(effort))
