"""The directory of a `reconstruct` stream: which images there are, where their bytes go, and all other bytes."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dcmpress.codecs.bits import ByteReader, put_varint
from dcmpress.codecs.errors import CorruptStreamError


@dataclass(frozen=True)
class Image:
    """One image as it was received."""

    method: int
    """How its bytes are made again: `reconstruct.JPEG_XL`, or a method of `restorable`."""
    size: int
    """Of the image as received, in bytes."""
    recipe: bytes = b""
    """What its encoder must know besides the samples."""
    stream: bytes = field(default=b"", repr=False)
    """Its own stream, if it is not coded with others; empty after reading."""
    stream_size: int = -1
    """Bytes of that stream; -1 while it is at hand."""


@dataclass(frozen=True)
class Piece:
    """Bytes of an image, and where they stand."""

    at: int
    """Offset in the bytes of the frames."""
    image: int
    start: int
    """Offset in the bytes of the image."""
    length: int


@dataclass
class Directory:
    """Images, the pieces of them, and the streams that hold their samples and coefficients."""

    images: list[Image]
    pieces: list[Piece]
    inner: str
    inner_size: int
    coefficients_size: int = 0
    """Bytes of the stream that holds the coefficients of JPEG images."""
    _literals_before: list[int] = field(default_factory=list)

    def literals_before(self, k: int) -> int:
        """Return what leads from an offset in the frames to one in the literals, between pieces k - 1 and k."""
        return self._literals_before[k]

    @property
    def version(self) -> int:
        """Of the format that this needs."""
        return 2 if self.coefficients_size else 1

    def to_bytes(self, data: NDArray[np.uint8]) -> bytes:
        """Return the directory, and the bytes of `data` that no piece covers."""
        out = bytearray()
        put_varint(out, len(self.images))
        for image in self.images:
            out.append(image.method)
            for value in (image.size, len(image.stream), len(image.recipe)):
                put_varint(out, value)
        for image in self.images:
            out += image.recipe
        put_varint(out, len(self.pieces))
        literals = []
        at, last_image, reached = 0, -1, 0
        for piece in self.pieces:
            if piece.image != last_image:
                reached = 0
            for value in (
                piece.at - at,
                piece.image - last_image,
                piece.start - reached,
                piece.length,
            ):
                if value < 0:
                    raise ValueError("pieces overlap, or images are out of order")
                put_varint(out, value)
            literals.append(data[at : piece.at])
            at = piece.at + piece.length
            last_image, reached = piece.image, piece.start + piece.length
        literals.append(data[at:])
        if at > data.size:
            raise ValueError("a piece leads out of the frames")
        name = self.inner.encode()
        out.append(len(name))
        out += name
        put_varint(out, self.inner_size)
        if self.version > 1:
            put_varint(out, self.coefficients_size)
        return bytes(out) + b"".join(part.tobytes() for part in literals)

    @classmethod
    def from_bytes(cls, data: bytes, n_bytes: int, version: int) -> tuple["Directory", memoryview]:
        """Read what `to_bytes` wrote in a version of the format for frames of `n_bytes`; return it and the literals.

        Raises
        ------
        CorruptStreamError
        """
        reader = ByteReader(data)
        fields = [
            (reader.byte(), reader.varint(), reader.varint(), reader.varint())
            for _ in range(reader.varint(len(data)))
        ]
        images = [
            Image(method, size, bytes(reader.take(recipe)), stream_size=stream)
            for method, size, stream, recipe in fields
        ]
        pieces: list[Piece] = []
        before = [0]
        at, image, reached, literal = 0, -1, 0, 0
        for _ in range(reader.varint(len(data))):
            gap, step, skip, length = (reader.varint(n_bytes + (1 << 40)) for _ in range(4))
            if step:
                reached = 0
            image += step
            if not 0 <= image < len(images) or reached + skip + length > images[image].size:
                raise CorruptStreamError("a piece of no image")
            at += gap
            literal += gap
            if at + length > n_bytes:
                raise CorruptStreamError("a piece leads out of the frames")
            pieces.append(Piece(at, image, reached + skip, length))
            at += length
            reached += skip + length
            before.append(literal - at)
        name = bytes(reader.take(reader.byte())).decode("ascii", "replace")
        inner_size = reader.varint()
        coefficients_size = reader.varint() if version > 1 else 0
        literals = reader.take(reader.left)
        if len(literals) != literal + n_bytes - at:
            raise CorruptStreamError("there are more or fewer bytes than the frames hold")
        return cls(images, pieces, name, inner_size, coefficients_size, before), literals
