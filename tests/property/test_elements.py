"""Offsets agree with pydicom's on real files, whole and cut anywhere."""

from io import BytesIO

from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.filereader import data_element_generator

from dcmpress.storage.archive import WANTED
from dcmpress.storage.elements import DEFLATED_SYNTAXES, PIXEL_DATA, encoding_of, inflate, iterate
from dcmpress.storage.errors import MalformedError
from dcmpress.storage.leading import read_leading
from dcmpress.storage.split import split
from tests.corpus_files import data_set, part10_files

FILES = [path for path in part10_files() if path.stat().st_size < 300_000]
SYNTAXES = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"]


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from(FILES))
def test_offsets_agree_with_pydicom(path: object) -> None:
    meta, data = data_set(path)  # type: ignore[arg-type]
    syntax = meta.transfer_syntax_uid
    if syntax in DEFLATED_SYNTAXES:
        data = inflate(data, 1 << 30)
    encoding = encoding_of(syntax)
    ours = [
        (element.tag, element.value)
        for element in iterate(data, encoding)
        if not element.undefined_length and element.tag != PIXEL_DATA
    ]
    theirs = [
        (int(element.tag), element.value_tell)
        for element in data_element_generator(BytesIO(data), not encoding.explicit, encoding.little_endian)
        if getattr(element, "length", None) != 0xFFFFFFFF
        and element.tag != PIXEL_DATA
        and hasattr(element, "value_tell")
    ]
    assert set(ours) >= set(theirs)
    assert len(theirs) > 3


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from(FILES), st.floats(0, 1))
def test_a_beginning_never_breaks_anything(path: object, share: float) -> None:
    meta, data = data_set(path)  # type: ignore[arg-type]
    cut = data[: int(share * len(data))]
    read_leading(cut, meta.transfer_syntax_uid, WANTED)
    found, reason = split(cut, meta.transfer_syntax_uid)
    assert (found is None) == bool(reason)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=400), st.sampled_from(SYNTAXES))
def test_bytes_of_any_kind(data: bytes, syntax: str) -> None:
    read_leading(data, syntax, WANTED)
    split(data, syntax)
    try:
        end = 0
        for element in iterate(data, encoding_of(syntax)):
            assert end == element.start <= element.value <= element.end <= len(data)
            end = element.end
        assert end == len(data)
    except MalformedError:
        pass
