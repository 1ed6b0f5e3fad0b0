"""dcmpress: a DICOM archive node that compresses losslessly on receipt and restores bit for bit."""

from dcmpress.codecs.registry import get_codec

__version__ = "0.1.0"

__all__ = ["__version__", "get_codec"]
