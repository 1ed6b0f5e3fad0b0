"""What can go wrong in a codec.

    CodecError                bad data: the stream cannot be decoded
    ├── CorruptStreamError    truncated, damaged, or not of this codec
    ├── UnknownVersionError   a format version newer than this program
    └── TooLargeError         declares more samples than the caller allows

A bad call (wrong shape, dtype, reference or parameter) raises `ValueError`.
"""


class CodecError(Exception):
    """The data given to `Codec.decode` cannot be decoded."""


class CorruptStreamError(CodecError):
    """The stream is truncated, damaged, or was not written by this codec."""


class UnknownVersionError(CodecError):
    """The stream has a format version that this program does not know."""


class TooLargeError(CodecError):
    """The stream declares more samples than `max_pixels` allows; nothing was allocated."""
