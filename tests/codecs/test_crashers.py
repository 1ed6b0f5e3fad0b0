"""Streams that once made a decoder fail, and a minute's worth of new ones."""

import random

import pytest

from dcmpress.codecs.registry import get_codec
from tests.fuzz.codecs import CODECS, CRASHERS, damaged, encoded, images, tried


@pytest.mark.parametrize("label", CODECS)
def test_kept_streams_are_refused_or_decoded(label: str) -> None:
    """One damaged stream of each codec to begin with, and whatever the fuzzer finds."""
    kept = sorted(CRASHERS.glob(f"{label}.*"))
    assert kept
    name, parameters = CODECS[label]
    for path in kept:
        outcome = tried(get_codec(name, **parameters), path.read_bytes(), None)
        assert outcome in ("decoded", "refused"), f"{path.name}: {outcome}"


@pytest.mark.parametrize("label", CODECS)
def test_damaged_streams_raise_codec_errors_only(label: str) -> None:
    name, parameters = CODECS[label]
    codec = get_codec(name, **parameters)
    chooser = random.Random(20)
    for _ in range(6):
        stream, other = encoded(codec, images(chooser)), encoded(codec, images(chooser))
        for _ in range(25):
            outcome = tried(codec, damaged(stream, other, chooser), None)
            assert outcome in ("decoded", "refused"), outcome
