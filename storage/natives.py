"""Spool files whose data sets are kept as native pixel data, see `pixel_exact`: made, and confirmed."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

from dcmpress.storage.elements import EXPLICIT_VR_LITTLE_ENDIAN
from dcmpress.storage.errors import ConversionError
from dcmpress.storage.pixel_exact import by_imagecodecs, by_pydicom, native_form
from dcmpress.storage.received import Form
from dcmpress.storage.source import Native, Source, digest_of, mapped
from dcmpress.storage.split import Split
from dcmpress.storage.spool import SpoolEntry


def make_native(source: Source, scratch: IO[bytes]) -> str:
    """Let a source stand for the native form of its data set, which is appended to `scratch`.

    Returns
    -------
    str
        Why it is left as it is, or "".
    """
    start = scratch.seek(0, os.SEEK_END)
    digest = hashlib.sha256()
    try:
        with mapped(source.entry, source.path) as data:
            form = native_form(data, source.entry.meta.transfer_syntax_uid)
            for piece in form.pieces(data, by_imagecodecs):
                scratch.write(piece)
                digest.update(piece)
    except ConversionError as error:
        return str(error)
    scratch.flush()
    source.native = Native(scratch, start, Form(EXPLICIT_VR_LITTLE_ENDIAN, form.size, digest.digest()))
    source.split = Split(form.pixel_format, len(form.head), len(form.images), {})
    return ""


def differing(entries: Iterable[SpoolEntry], spool_folder: str, forms: Mapping[str, Form]) -> set[str]:
    """Decode spool files once more, by another decoder; return the names of those that do not come out as kept.

    Parameters
    ----------
    forms
        Spool name -> the data set that is kept in its place.
    """
    found = set()
    for entry in entries:
        if entry.name not in forms:
            continue
        path = Path(spool_folder) / f"{entry.name}.dcm"
        try:
            same = digest_of(path, entry.offset) == entry.sha256
            with mapped(entry, path) as data:
                form = native_form(data, entry.meta.transfer_syntax_uid)
                same = same and form.digest(data, by_pydicom) == forms[entry.name]
        except (ConversionError, MemoryError):
            same = False
        if not same:
            found.add(entry.name)
    return found
