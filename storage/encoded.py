"""A codec at work on a segment, and all that the index says of the outcome."""

import json
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from dcmpress.codecs.base import Codec


@dataclass(frozen=True)
class Encoded:
    """What a codec made of a segment, and what the index says of it."""

    codec: str
    parameters: dict[str, Any]
    format_version: int
    payload: bytes
    offsets: list[int]


def encode_by(
    codec: Codec,
    frames: NDArray[Any],
    references: list[int] | None = None,
    shifts: list[tuple[int, int]] | None = None,
) -> Encoded:
    """Encode, and see to it that everything the codec says of its stream can stand in an index."""
    return described(codec, codec.encode(frames, references, shifts=shifts))


def described(codec: Codec, payload: Any) -> Encoded:
    """Return a stream that a codec has made with what the index says of it."""
    if not isinstance(payload, bytes | bytearray):
        raise TypeError(f"encode returned {type(payload).__name__}")
    payload = bytes(payload)
    return Encoded(
        codec.codec_id,
        json.loads(json.dumps(codec.parameters(), allow_nan=False)),
        int(codec.format_version),
        payload,
        [int(offset) for offset in codec.frame_offsets(payload) or []],
    )
