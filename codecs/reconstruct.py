"""Bytes that hold compressed images, kept smaller and given back to the byte.

What arrives compressed cannot be compressed again as bytes. This codec takes the images in it apart: of a JPEG
image the coefficients are coded anew, each image predicted from the one before (`jpeg_dct`); of a losslessly
compressed image the samples go to another codec, where frames predict each other. With them goes a *recipe* by which
our own encoder writes the same bytes again. A JPEG image that this does not take becomes JPEG XL, from which any
conforming decoder restores it (ISO/IEC 18181-2, `jbrd`). What does not come back identical stays as it is.

Seen from outside, the frames are bytes, `uint8` of any shape; C order makes them one run of bytes, in which
images may lie anywhere, in several pieces, and be cut at both ends. `docs/formats/reconstruct.md` has the layout.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import imagecodecs
import numpy as np
import zstandard
from numpy.typing import NDArray

from dcmpress.codecs.base import MAX_PIXELS, Codec, check_frames, check_references, check_shifts
from dcmpress.codecs.bits import ByteReader, put_varint
from dcmpress.codecs.errors import CodecError, CorruptStreamError, TooLargeError
from dcmpress.codecs.jpeg_dct.image import Jpeg, take_apart
from dcmpress.codecs.jpeg_dct.stream import BLOCKS_PER_BYTE, CoefficientWriter, restore
from dcmpress.codecs.reconstruct_directory import Directory, Image, Piece
from dcmpress.codecs.registry import get_codec
from dcmpress.codecs.restorable import put_together, working_limit
from dcmpress.codecs.stream import read_stream, write_stream

MAGIC = b"DREC"

JPEG_XL = 1
"""Method of an image that is kept as JPEG XL."""
JPEG_DCT = 6
"""Method of a JPEG image whose coefficients are kept; all others have samples, see `restorable`."""

LEVEL = 19
PLAIN_LEVEL = 12
"""Zstandard levels: for a few bytes beside images, and for bytes without any."""


@dataclass(frozen=True)
class Reconstruct(Codec):
    """The codec `reconstruct`.

    Parameters
    ----------
    inner : str
        Name of the codec that takes the samples of images; it must be lossless.
    options : dict
        Its parameters.
    """

    inner: str = "interframe"
    options: dict[str, Any] = field(default_factory=dict, hash=False)

    codec_id: ClassVar[str] = "reconstruct"
    format_version: ClassVar[int] = 2
    dtypes: ClassVar[tuple[str, ...]] = ("uint8",)

    def __post_init__(self) -> None:
        if not isinstance(self.options, dict):
            raise ValueError(f"options must be a map, not {self.options!r}")
        if self.inner == self.codec_id:
            raise ValueError("reconstruct cannot code its own samples")

    def samples_codec(self) -> Codec:
        """Return the codec of samples; raise ValueError if there is none, or it is lossy."""
        codec = get_codec(self.inner, **self.options)
        if not codec.lossless:
            raise ValueError(f"codec {self.inner} is lossy")
        return codec

    def encode(
        self,
        frames: NDArray[Any],
        references: Sequence[int] | None = None,
        *,
        shifts: Sequence[tuple[int, int]] | None = None,
    ) -> bytes:
        """Encode frames of bytes; one that is a whole JPEG image is taken apart."""
        frames = check_frames(self, frames)
        check_references(references, len(frames))
        check_shifts(shifts, len(frames))
        images: list[Image] = []
        pieces: list[Piece] = []
        coefficients = CoefficientWriter()
        size = frames[0].size
        for i, frame in enumerate(frames):
            taken = take_jpeg_apart(frame.tobytes())
            if taken is not None:
                pieces.append(Piece(at=i * size, image=len(images), start=0, length=size))
                images.append(taken.image)
                taken.add_to(coefficients)
        return self.encode_images(frames, images, pieces, coefficients=coefficients)

    def encode_images(
        self,
        frames: NDArray[np.uint8],
        images: Sequence[Image],
        pieces: Sequence[Piece],
        samples: NDArray[Any] | None = None,
        references: Sequence[int] | None = None,
        shifts: Sequence[tuple[int, int]] | None = None,
        *,
        coefficients: CoefficientWriter | None = None,
    ) -> bytes:
        """Encode frames of bytes in which it is known what lies where.

        Parameters
        ----------
        frames : ndarray of uint8, C-contiguous
        images : sequence
            In the order in which they are first named by `pieces`.
        pieces : sequence
            Where in the bytes of `frames` which bytes of the images stand: ascending, without overlap. What
            they leave out is kept as it is.
        samples : ndarray, (m, rows, columns) or (m, rows, columns, samples), optional
            Of the m images that `restorable` has taken apart, in their order.
        references, shifts
            Of `samples`, for the inner codec.
        coefficients
            To which the coefficients of the JPEG images were added, in their order.

        Raises
        ------
        ValueError
            If this is not of that form, or too large to be decoded within the limits.
        """
        if coefficients is None:
            coefficients = CoefficientWriter()
        methods = Counter(image.method for image in images)
        n_restored = len(images) - methods[JPEG_XL] - methods[JPEG_DCT]
        if n_restored != (0 if samples is None else len(samples)) or methods[JPEG_DCT] != coefficients.images:
            raise ValueError(f"{n_restored} images to restore, {methods[JPEG_DCT]} of coefficients")
        limit = working_limit(frames.size)
        n_samples = 0 if samples is None else samples.size
        too_large = _too_large([image.size for image in images], limit)
        if too_large or n_samples > limit or coefficients.cost > BLOCKS_PER_BYTE * limit:
            raise ValueError("too little is left of too much")
        inside = b""
        if samples is not None:
            inside = self.samples_codec().encode(samples, references, shifts=shifts)
        coded = coefficients.finish()
        name = self.inner if inside else ""
        directory = Directory(list(images), list(pieces), name, len(inside), len(coded))
        listed = directory.to_bytes(frames.reshape(-1))
        packed = zstandard.ZstdCompressor(level=LEVEL if images else PLAIN_LEVEL).compress(listed)
        head = bytearray()
        put_varint(head, len(listed))
        put_varint(head, len(packed))
        streams = [image.stream for image in images]
        return write_stream(
            MAGIC, directory.version, frames, b"".join([bytes(head), packed, inside, coded, *streams])
        )

    def decode(
        self, data: bytes, select: Sequence[int] | None = None, *, max_pixels: int = MAX_PIXELS
    ) -> NDArray[Any]:
        header, payload = read_stream(data, MAGIC, self.format_version, max_pixels)
        if header.dtype != np.uint8:
            raise CorruptStreamError(f"frames of {header.dtype.name}")
        n = header.shape[0]
        wanted = list(range(n)) if select is None else [int(i) for i in select]
        for i in wanted:
            if not 0 <= i < n:
                raise IndexError(f"no frame {i} in a stream of {n}")
        reader = ByteReader(payload)
        # Each byte of the directory stands for at least one of an image, a piece, or the bytes themselves.
        listed = _unpacked(reader, working_limit(header.n_samples))
        directory, literals = Directory.from_bytes(listed, header.n_samples, header.version)
        inside = reader.take(directory.inner_size)
        coefficients = reader.take(directory.coefficients_size)
        streams = [reader.take(image.stream_size) for image in directory.images]
        if reader.left:
            raise CorruptStreamError(f"{reader.left} bytes too many")
        frame_bytes = header.n_samples // n
        touched = _touched(directory, wanted, frame_bytes)
        limit = working_limit(header.n_samples)
        images = _restored(directory, touched, inside, coefficients, streams, limit)
        return _assembled(directory, literals, images, wanted, frame_bytes).reshape(
            len(wanted), *header.shape[1:]
        )


@dataclass(frozen=True)
class TakenJpeg:
    """A JPEG image taken apart: with coefficients, or kept as JPEG XL."""

    image: Image
    jpeg: Jpeg | None = None

    def add_to(self, writer: CoefficientWriter) -> None:
        """Add the coefficients, if there are any."""
        if self.jpeg is not None:
            writer.add(self.jpeg, self.image.size)


def take_jpeg_apart(data: bytes) -> TakenJpeg | None:
    """Take a JPEG image with a discrete cosine transform apart; None if the same bytes do not come back."""
    try:
        taken = take_apart(data, working_limit(len(data)) // 64)
    except CodecError:
        taken = None
    if taken is not None:
        return TakenJpeg(Image(JPEG_DCT, len(data), taken.recipe), taken)
    image = jpeg_xl_image(data)
    return None if image is None else TakenJpeg(image)


def jpeg_xl_image(data: bytes) -> Image | None:
    """Return a JPEG image as JPEG XL, or None if that does not give the same bytes back."""
    if data[:2] != b"\xff\xd8":
        return None
    try:
        stream = bytes(imagecodecs.jpegxl_encode_jpeg(data, numthreads=1))
        if len(stream) >= len(data) or imagecodecs.jpegxl_decode_jpeg(stream, numthreads=1) != data:
            return None
    except (RuntimeError, ValueError):
        return None
    return Image(JPEG_XL, len(data), stream=stream)


def _unpacked(reader: ByteReader, limit: int) -> bytes:
    size, packed = reader.varint(limit), reader.varint()
    frame = reader.take(packed)
    try:
        if zstandard.frame_content_size(frame) != size:  # the library allocates what the frame announces
            raise CorruptStreamError("the directory is shorter or longer than announced")
        return zstandard.ZstdDecompressor().decompress(frame)
    except zstandard.ZstdError as error:
        raise CorruptStreamError(f"directory: {error}") from None


def _touched(directory: Directory, wanted: list[int], frame_bytes: int) -> list[int]:
    """Return the numbers of the images that lie in the wanted frames, ascending."""
    marked = np.zeros(max(wanted, default=0) + 2, np.bool_)
    marked[wanted] = True
    seen = np.concatenate([[0], np.cumsum(marked)])  # seen[i]: wanted frames before i
    last = len(marked)
    touched = set()
    for piece in directory.pieces:
        first, stop = piece.at // frame_bytes, -(-(piece.at + piece.length) // frame_bytes)
        if seen[min(stop, last)] > seen[min(first, last)]:
            touched.add(piece.image)
    return sorted(touched)


def _restored(
    directory: Directory,
    numbers: list[int],
    inside: memoryview,
    coefficients: memoryview,
    streams: list[memoryview],
    limit: int,
) -> dict[int, bytes]:
    """Return the bytes of images, by number."""
    listed = directory.images
    if _too_large([listed[number].size for number in numbers], limit):
        raise TooLargeError(f"images of more than {limit} bytes")
    of_samples = [k for k, image in enumerate(listed) if image.method not in (JPEG_XL, JPEG_DCT)]
    of_coefficients = [k for k, image in enumerate(listed) if image.method == JPEG_DCT]
    chosen = _places(numbers, of_samples)
    frames = iter(_samples(directory, inside, chosen, len(of_samples), limit) if chosen else ())
    chosen = _places(numbers, of_coefficients)
    jpegs = iter(_jpegs([listed[k] for k in of_coefficients], coefficients, chosen, limit) if chosen else ())
    restored = {}
    for number in numbers:
        image = listed[number]
        if image.method == JPEG_XL:
            data = _jpeg_of_xl(streams[number], image.size)
        elif image.method == JPEG_DCT:
            data = next(jpegs)
        else:
            data = put_together(image.method, next(frames), image.recipe)
        if len(data) != image.size:
            raise CorruptStreamError(f"an image of {len(data)} bytes instead of {image.size}")
        restored[number] = data
    return restored


def _too_large(sizes: list[int], limit: int) -> bool:
    """Tell whether images are too much for a stream: one above the limit, or all together above twice that.

    An encoder that cuts a run of bytes into streams keeps an image at each end of which little stands there.
    """
    return max(sizes, default=0) > limit or sum(sizes) > 2 * limit


def _places(numbers: list[int], among: list[int]) -> list[int]:
    """Return where those of `numbers` that are in `among` stand there."""
    place = {number: k for k, number in enumerate(among)}
    return [place[number] for number in numbers if number in place]


def _jpegs(images: list[Image], coefficients: memoryview, chosen: list[int], limit: int) -> list[bytes]:
    recipes, sizes = [image.recipe for image in images], [image.size for image in images]
    return restore(coefficients, recipes, sizes, chosen, BLOCKS_PER_BYTE * limit)


def _samples(
    directory: Directory, inside: memoryview, chosen: list[int], n_frames: int, limit: int
) -> NDArray[Any]:
    try:
        codec = get_codec(directory.inner)
    except ValueError as error:
        raise CorruptStreamError(str(error)) from None
    if isinstance(codec, Reconstruct):
        raise CorruptStreamError("a stream inside itself")
    try:
        frames = codec.decode(inside, chosen, max_pixels=limit)  # type: ignore[arg-type]
    except IndexError:
        raise CorruptStreamError(f"fewer than {n_frames} frames inside") from None
    return frames


def _jpeg_of_xl(stream: memoryview, size: int) -> bytes:
    try:
        return bytes(imagecodecs.jpegxl_decode_jpeg(bytes(stream), numthreads=1, out=size))
    except (RuntimeError, ValueError) as error:
        raise CorruptStreamError(f"jpeg-xl: {error}") from None


def _assembled(
    directory: Directory, literals: memoryview, images: dict[int, bytes], wanted: list[int], frame_bytes: int
) -> NDArray[np.uint8]:
    """Return the wanted frames, (n, frame_bytes)."""
    out = np.empty((len(wanted), frame_bytes), np.uint8)
    kept = np.frombuffer(literals, np.uint8)
    first = wanted[0] if wanted else 0
    if wanted == list(range(first, first + len(wanted))):
        runs = [(first, 0, len(wanted))]
    else:
        runs = [(frame, place, 1) for place, frame in enumerate(wanted)]
    starts = np.array([piece.at for piece in directory.pieces], np.int64)
    for frame, place, count in runs:
        begin, end = frame * frame_bytes, (frame + count) * frame_bytes
        target = out[place : place + count].reshape(-1)
        at = begin
        k = max(0, int(np.searchsorted(starts, begin, "right")) - 1)
        while at < end:
            piece = directory.pieces[k] if k < len(directory.pieces) else None
            if piece is not None and piece.at + piece.length <= at:
                k += 1
                continue
            if piece is None or piece.at > at:
                stop = end if piece is None else min(end, piece.at)
                before = directory.literals_before(k)
                target[at - begin : stop - begin] = kept[before + at : before + stop]
            else:
                stop = min(end, piece.at + piece.length)
                source = images[piece.image]
                first = piece.start + at - piece.at
                target[at - begin : stop - begin] = np.frombuffer(source, np.uint8)[first : first + stop - at]
            at = stop
    return out
