"""`dcmpress view`: one frame as a picture, and what the data set says of it."""

import math
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image
from pydicom.dataset import Dataset

from dcmpress.cli.app import MISUSED, ConfigOption, app, fail, load_config, out
from dcmpress.cli.wiring import open_existing_archive
from dcmpress.config import Config
from dcmpress.storage.errors import ConversionError, StorageError
from dcmpress.storage.part10 import guess_transfer_syntax, read_part10
from dcmpress.storage.render import parse, render

SHOWN = (
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "Manufacturer",
    "StudyDate",
    "SeriesDescription",
    "InstanceNumber",
    "PhotometricInterpretation",
    "SamplesPerPixel",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "BitsStored",
    "PixelRepresentation",
    "PixelSpacing",
    "SliceThickness",
    "WindowCenter",
    "WindowWidth",
    "RescaleIntercept",
    "RescaleSlope",
    "LossyImageCompression",
)
"""Attributes that are printed; none of them names the patient."""


@app.command()
def view(
    what: Annotated[str, typer.Argument(metavar="FILE|UID", help="A DICOM file, or an instance kept here.")],
    frame: Annotated[int, typer.Option(help="Frame, from 0.")] = 0,
    window: Annotated[str | None, typer.Option(help="Centre,width; default: the data set's own.")] = None,
    size: Annotated[str | None, typer.Option(help="Width x height of the picture, such as 512x512.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="PNG file to write.")] = None,
    config: ConfigOption = None,
) -> None:
    """Show what a data set says of its image, and write a frame as PNG with -o."""
    levels = _pair(window, ",", "--window")
    extent = _pair(size, "x", "--size")
    try:
        data_set, received = _read(what, load_config(config))
        if output is not None:
            picture = Image.fromarray(render(data_set, frame, levels))
            if extent is not None:
                width, height = int(extent[0]), int(extent[1])
                if not (0 < width <= 16384 and 0 < height <= 16384):
                    raise fail("--size: 1x1 to 16384x16384", MISUSED)
                picture = picture.resize((width, height), Image.Resampling.LANCZOS)
            picture.save(output, "PNG")
    except (StorageError, OSError) as error:
        raise fail(f"{what}: {error}") from None
    shown = {keyword: data_set[keyword].value for keyword in SHOWN if keyword in data_set}
    shown["TransferSyntaxUID"] = data_set.file_meta.TransferSyntaxUID
    if received:
        shown["received in"] = f"{received}; its pixels are kept, not its bytes"
    for keyword, value in shown.items():
        out.print(f"{keyword:25}  {value}", markup=False)
    if output is not None:
        out.print(f"frame {frame} written to {output}", markup=False)


def _read(what: str, config: Config) -> tuple[Dataset, str]:
    """Return a data set, and the transfer syntax in which it came if its bytes are not kept."""
    path = Path(what)
    if path.is_file():
        data = path.read_bytes()
        meta, offset = read_part10(data)
        syntax = meta.transfer_syntax_uid if meta else guess_transfer_syntax(data[offset:])
        if syntax is None:
            raise ConversionError("not a DICOM file")
        return parse(data[offset:], syntax), ""
    archive = open_existing_archive(config)
    try:
        found = archive.open(what)
        received = found.located.received_transfer_syntax_uid or ""
        return parse(b"".join(found.pieces()), found.transfer_syntax_uid), received
    finally:
        archive.close()


def _pair(text: str | None, separator: str, option: str) -> tuple[float, float] | None:
    if text is None:
        return None
    first, _, second = text.partition(separator)
    try:
        pair = float(first), float(second)
    except ValueError:
        pair = math.nan, math.nan
    if not all(map(math.isfinite, pair)):
        raise fail(f"{option} {text}: write two numbers with {separator!r} between", MISUSED)
    if pair[1] <= 0:
        raise fail(f"{option} {text}: the second number must be above 0", MISUSED)
    return pair
