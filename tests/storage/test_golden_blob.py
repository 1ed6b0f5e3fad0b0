"""A blob of format version 1 is read for ever, and the document shows its bytes."""

import hashlib
import json
import re
from pathlib import Path

from dcmpress.storage.blob import BlobReader
from dcmpress.storage.exporting import extract
from dcmpress.storage.join import InstanceReader
from tests.corpus_files import GOLDEN, PROJECT, data_set

BLOB = GOLDEN / "blob-v1.dcmb"
EXPECTED: dict[str, str] = json.loads((GOLDEN / "blob-v1.json").read_text())


def test_it_is_the_file_that_was_written_once() -> None:
    assert len(BLOB.read_bytes()) == 5760
    digest = hashlib.sha256(BLOB.read_bytes()).hexdigest()
    assert digest == "cfecf451ce9ba21ce97b0b4afea3a12b4a2516e5df14e118a53d384d1aee57ce"


def test_every_instance_comes_back() -> None:
    with InstanceReader(BLOB) as reader:
        instances = reader.blob.index.instances
        found = {i.sop_instance_uid: reader.read(number) for number, i in enumerate(instances)}
    assert {uid: hashlib.sha256(data).hexdigest() for uid, data in found.items()} == EXPECTED


def test_it_has_what_the_document_says() -> None:
    with BlobReader(BLOB) as blob:
        kinds = [blob.section_kind(number) for number in range(blob.n_sections)]
        assert kinds == [b"FRMS"] * 4 + [b"SHEL", b"INDX"]
        assert {segment.codec for segment in blob.index.segments} == {"jpeg-ls", "zstd"}
        assert {(f.samples, f.big_endian, f.bits_allocated) for f in blob.index.pixel_formats} == {
            (1, False, 16),
            (3, False, 8),
            (1, True, 16),
        }
        assert max(instance.tail for instance in blob.index.instances) == 3


def test_the_document_shows_its_first_bytes() -> None:
    text = (PROJECT / "docs" / "blob-format.md").read_text()
    block = text.split("## The first bytes")[1].split("```")[1]
    shown = bytes.fromhex(
        "".join(m[0] for line in block.splitlines() if (m := re.match(r"([0-9a-f]{2} ?){16}", line)))
    )
    assert len(shown) == 128
    assert shown == BLOB.read_bytes()[:128]


def test_extract_needs_nothing_but_the_file(tmp_path: Path) -> None:
    written = list(extract(BLOB, tmp_path))
    assert [item.problem for item in written] == [""] * len(EXPECTED)
    for item in written:
        meta, data = data_set(item.path)
        assert hashlib.sha256(data).hexdigest() == EXPECTED[meta.sop_instance_uid]


PIXEL_EXACT = GOLDEN / "blob-v1-pixel-exact.dcmb"
RECEIVED: dict[str, str] = json.loads(PIXEL_EXACT.with_suffix(".json").read_text())
NATIVE = {
    "1.2.826.0.1.3680043.10.1.2.1": "c0f89ffa2e13a07f3b40a22e3598440c2918811d198d3d38a33e11c162105783",
    "1.2.826.0.1.3680043.10.1.2.2": "f44f6f0fb9d7ef7b9f187bef97d9be2a6aa007a03bcb5d17400670353f9c9d43",
    "1.2.826.0.1.3680043.10.1.2.3": "dad59109c877acdb1c7c5ed66ada8a80260591175e37ae0e4eca06393c8dc529",
}


def test_a_blob_of_what_is_kept_pixel_exact() -> None:
    """It was written once: two of three instances came in HTJ2K, which only its record says."""
    digest = hashlib.sha256(PIXEL_EXACT.read_bytes()).hexdigest()
    assert digest == "99db4dce6cce4c7f755b41c451e7081b1ac2cb7370dac932c8ecef7f4e86c450"
    with InstanceReader(PIXEL_EXACT) as reader:
        instances = reader.blob.index.instances
        found = {i.sop_instance_uid: reader.read(number) for number, i in enumerate(instances)}
        came = {i.sop_instance_uid: i.received.sha256 if i.received else i.sha256 for i in instances}
        assert {i.transfer_syntax_uid for i in instances} == {"1.2.840.10008.1.2.1"}
    assert {uid: hashlib.sha256(data).hexdigest() for uid, data in found.items()} == NATIVE
    assert came == RECEIVED
