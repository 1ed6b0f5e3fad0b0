"""Identifiers, judged by pydicom: what it writes is understood, what is written it understands."""

import struct
import warnings
import zlib
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence

from dcmpress.scp.identifier import (
    AnswerEncoder,
    Identifier,
    UnreadableIdentifierError,
    decode_identifier,
    encode_failed_list,
)
from dcmpress.storage.charset import CharacterSet

IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.1.99",
)
SYNTAXES = [IMPLICIT, EXPLICIT, BIG_ENDIAN, DEFLATED]

JAPANESE = "Yamada^Tarou=山田^太郎=やまだ^たろう"
OUTSIDE = "出首^山"
"""In JIS X 0208 the first bytes of these are the codes of "=", "<" and ";"."""


def encode(data_set: Dataset, syntax: str) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR = syntax == IMPLICIT
    buffer.is_little_endian = syntax != BIG_ENDIAN
    write_dataset(buffer, data_set)
    data = buffer.getvalue()
    if syntax == DEFLATED:
        deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = deflater.compress(data) + deflater.flush()
    return data


def decode(data: bytes, syntax: str) -> Dataset:
    if syntax == DEFLATED:
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data)
    meta = Dataset()
    meta.TransferSyntaxUID = EXPLICIT if syntax == DEFLATED else syntax
    header = DicomBytesIO()
    header.is_implicit_VR, header.is_little_endian = False, True
    write_dataset(header, meta)
    group = header.getvalue()
    length = struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(group))
    return dcmread(BytesIO(bytes(128) + b"DICM" + length + group + data))


def request(**values: object) -> Dataset:
    data_set = Dataset()
    data_set.QueryRetrieveLevel = "STUDY"
    for keyword, value in values.items():
        setattr(data_set, keyword, value)
    return data_set


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_a_request_is_decoded(syntax: str) -> None:
    item = Dataset()
    item.CodeValue = "123"
    data_set = request(
        PatientName="Doe^J*",
        PatientID="",
        StudyDate="20240101-",
        ModalitiesInStudy=["CT", "MR"],
        StudyInstanceUID=["1.2.3", "1.2.30"],
        Rows=512,
        ProcedureCodeSequence=Sequence([item]),
    )
    data_set.add_new(0x00091001, "LO", "private")
    data_set.add_new(0x00080000, "UL", 4)  # a group length: retired, ignored
    identifier = decode_identifier(encode(data_set, syntax), syntax)
    assert identifier.level == "STUDY"
    assert identifier.texts() == {
        "StudyDate": "20240101-",
        "ModalitiesInStudy": "CT\\MR",
        "ProcedureCodeSequence": "",
        "PatientName": "Doe^J*",
        "PatientID": "",
        "StudyInstanceUID": "1.2.3\\1.2.30",
        "Rows": "512",
    }
    assert identifier.keys[0x00081032].vr == "SQ"
    assert 0x00091001 in identifier.keys


NAMES = [
    (["ISO_IR 100"], "Müller^Jörg"),
    (["ISO_IR 101"], "Wałęsa^Lech"),
    (["ISO_IR 144"], "Люкceмбypг"),
    (["ISO_IR 126"], "Διονυσιος"),
    (["ISO_IR 192"], JAPANESE),
    (["GB18030"], "Wang^XiaoDong=王^小东"),
    (["ISO_IR 13"], "ﾔﾏﾀﾞ^ﾀﾛｳ"),
    (["", "ISO 2022 IR 87"], JAPANESE),
    (["ISO 2022 IR 13", "ISO 2022 IR 87"], "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
    (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
]


@pytest.mark.parametrize(("terms", "name"), NAMES)
def test_names_from_pydicom_are_understood(terms: list[str], name: str) -> None:
    data_set = Dataset()
    data_set.SpecificCharacterSet = terms
    data_set.PatientName = name
    assert decode_identifier(encode(data_set, IMPLICIT), IMPLICIT).texts()["PatientName"] == name


@pytest.mark.parametrize(("terms", "name"), NAMES)
def test_pydicom_understands_names_from_here(terms: list[str], name: str) -> None:
    asked = decode_identifier(encode(request(PatientName=""), IMPLICIT), IMPLICIT)
    asked = Identifier(asked.level, CharacterSet("\\".join(terms)), asked.keys)
    answer = decode(AnswerEncoder(asked, IMPLICIT, "DCMPRESS").encode({"PatientName": name}), IMPLICIT)
    assert answer.SpecificCharacterSet == (terms if len(terms) > 1 else terms[0])
    assert str(answer.PatientName) == name


@pytest.mark.parametrize(
    ("terms", "name", "raw"),
    [
        # pydicom splits at the code of "=" before it decodes, and knows no escapes of ISO-IR 58
        ("\\ISO 2022 IR 87", OUTSIDE, b"\x1b$B=P<s\x1b(B^\x1b$B;3\x1b(B"),
        (
            "\\ISO 2022 IR 58",
            "Zhang^XiaoDong=张^小东=",
            b"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=",  # PS3.5 K.2
        ),
        # PS3.5 H.3.1
        (
            "\\ISO 2022 IR 87",
            JAPANESE,
            b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
        ),
        # PS3.5 I.2
        (
            "\\ISO 2022 IR 149",
            "Hong^Gildong=洪^吉洞=홍^길동",
            b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
        ),
    ],
)
def test_code_extensions_are_those_of_the_standard(terms: str, name: str, raw: bytes) -> None:
    charset = CharacterSet(terms)
    assert charset.encode(name, name=True) == raw
    assert charset.decode(raw, name=True) == name


@given(
    st.sampled_from(["", "ISO_IR 100", "ISO_IR 192", "GB18030", "\\ISO 2022 IR 87", "ISO_IR 13", "nonsense"]),
    st.text(max_size=20),
)
def test_encoding_keeps_a_text_or_says_that_it_cannot(terms: str, text: str) -> None:
    charset = CharacterSet(terms)
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    raw = charset.encode(text, name=True)
    if raw is not None and "\x1b" not in text:
        assert charset.decode(raw, name=True) == text


@given(
    st.binary(max_size=60),
    st.sampled_from(["", "ISO_IR 192", "\\ISO 2022 IR 87", "ISO_IR 13", "\\ISO 2022 IR 58"]),
)
def test_decoding_any_bytes_never_fails(raw: bytes, terms: str) -> None:
    assert isinstance(CharacterSet(terms).decode(raw, name=True), str)


def test_bytes_without_a_character_set_are_read_as_what_they_look_like() -> None:
    assert CharacterSet("").decode("Müller".encode()) == "Müller"
    assert CharacterSet("").decode("Müller".encode("latin-1")) == "Müller"


MATCH = {
    "PatientName": "Doe^John",
    "PatientID": "P1",
    "StudyDate": "20240101",
    "ModalitiesInStudy": "CT\\MR",
    "StudyInstanceUID": "1.2.3",
    "Rows": "512",
    "NumberOfStudyRelatedInstances": "42",
    "PatientComments": "",
}


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_an_answer_has_every_key_and_its_value(syntax: str) -> None:
    asked = request(ReferencedStudySequence=Sequence(), PregnancyStatus=None, **dict.fromkeys(MATCH))
    identifier = decode_identifier(encode(asked, syntax), syntax)
    data = AnswerEncoder(identifier, syntax, "DCMPRESS").encode(MATCH)
    assert len(data) % 2 == 0
    answer = decode(data, syntax)
    assert answer.QueryRetrieveLevel == "STUDY"
    assert answer.RetrieveAETitle == "DCMPRESS"
    assert answer.InstanceAvailability == "ONLINE"
    assert "SpecificCharacterSet" not in answer
    assert answer.PatientName == "Doe^John"
    assert answer.ModalitiesInStudy == ["CT", "MR"]
    assert (answer.Rows, answer.NumberOfStudyRelatedInstances) == (512, 42)
    assert answer.StudyInstanceUID == "1.2.3"
    assert len(answer.ReferencedStudySequence) == 0
    assert answer["PregnancyStatus"].is_empty
    assert answer["PatientComments"].is_empty
    assert [element.tag for element in answer] == sorted(element.tag for element in answer)


@pytest.mark.parametrize(
    ("sent", "name", "expected"),
    [
        ([], "Doe^John", None),
        ([], "Müller", "ISO_IR 192"),
        (["ISO_IR 100"], "Doe^John", "ISO_IR 100"),
        (["ISO_IR 100"], "Müller", "ISO_IR 100"),
        (["ISO_IR 100"], JAPANESE, "ISO_IR 192"),
        (["", "ISO 2022 IR 87"], JAPANESE, ["", "ISO 2022 IR 87"]),
        (["", "ISO 2022 IR 87"], "Müller", "ISO_IR 192"),
        (["KLINGON"], "Müller", "ISO_IR 192"),
        (["ISO_IR 13"], "ﾔﾏﾀﾞ", "ISO_IR 13"),
        (["ISO_IR 13"], "山田", "ISO_IR 192"),
    ],
)
def test_an_answer_is_in_a_character_set_that_the_requester_reads(
    sent: list[str], name: str, expected: object
) -> None:
    asked = request(PatientName="")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if sent:
            asked.SpecificCharacterSet = sent
        identifier = decode_identifier(encode(asked, EXPLICIT), EXPLICIT)
    answer = decode(AnswerEncoder(identifier, EXPLICIT, "DCMPRESS").encode({"PatientName": name}), EXPLICIT)
    assert answer.get("SpecificCharacterSet") == expected
    assert str(answer.PatientName) == name


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("cut", [1, 7, 9, 21])
def test_a_cut_identifier_is_refused(syntax: str, cut: int) -> None:
    data = encode(request(PatientName="Doe^John" * 5, PatientID="1" * 20), syntax)
    with pytest.raises(UnreadableIdentifierError) as raised:
        decode_identifier(data[:-cut], syntax)
    assert raised.value.status == 0xC000


@given(st.binary(max_size=200), st.sampled_from(SYNTAXES))
def test_any_bytes_are_an_identifier_or_an_error(data: bytes, syntax: str) -> None:
    try:
        identifier = decode_identifier(data, syntax)
    except UnreadableIdentifierError:
        return
    AnswerEncoder(identifier, syntax, "DCMPRESS").encode(MATCH)


def test_a_deflated_bomb_is_refused() -> None:
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    bomb = deflater.compress(bytes(64 << 20)) + deflater.flush()
    with pytest.raises(UnreadableIdentifierError, match="longer"):
        decode_identifier(bomb, DEFLATED)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_list_of_failed_instances(syntax: str) -> None:
    uids = [f"1.2.{n}" for n in range(5)]
    assert decode(encode_failed_list(uids, syntax), syntax).FailedSOPInstanceUIDList == uids


def test_a_list_too_long_for_its_length_field_is_cut_between_uids() -> None:
    uids = [f"1.2.840.10008.1{n:049d}" for n in range(2000)]
    listed = decode(encode_failed_list(uids, EXPLICIT), EXPLICIT).FailedSOPInstanceUIDList
    assert listed == uids[: len(listed)]
    assert len(listed) == 0xFFFF // 65
    assert decode(encode_failed_list(uids, IMPLICIT), IMPLICIT).FailedSOPInstanceUIDList == uids


def test_an_identifier_without_anything() -> None:
    assert decode_identifier(b"", IMPLICIT) == Identifier("", CharacterSet(""), {})
