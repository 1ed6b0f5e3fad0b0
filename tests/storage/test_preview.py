"""Lossy previews: made only by name, marked as lossy, beside an original that stays as it came."""

from pathlib import Path

import pydicom
import pytest

from dcmpress.codecs.measures import psnr
from dcmpress.storage.compress import CodecChoice
from dcmpress.storage.elements import EXPLICIT_VR_LITTLE_ENDIAN
from dcmpress.storage.errors import ConversionError
from dcmpress.storage.preview import derive, derived_uid
from dcmpress.storage.render import parse
from tests.corpus_files import data_set, series_files
from tests.nodes import Node, dcmtk

LOSSY = CodecChoice("wavelet-threshold", {"target_psnr": 40.0})


def test_a_derived_instance_says_that_it_is_lossy_and_of_what(tmp_path: Path) -> None:
    path = series_files("CT-LIDC0314-thin")[0]
    meta, data = data_set(path)
    derived_meta, derived = derive(data, meta.transfer_syntax_uid, LOSSY)
    original, preview = pydicom.dcmread(path), parse(derived, EXPLICIT_VR_LITTLE_ENDIAN)
    assert preview.SOPInstanceUID == derived_meta.sop_instance_uid != meta.sop_instance_uid
    assert preview.SeriesInstanceUID != original.SeriesInstanceUID
    assert preview.StudyInstanceUID == original.StudyInstanceUID
    assert preview.LossyImageCompression == "01"
    assert float(preview.LossyImageCompressionRatio) > 4
    assert preview.LossyImageCompressionMethod == "WAVELET_THRESH"
    assert preview.ImageType[0] == "DERIVED"
    assert "wavelet-threshold" in preview.DerivationDescription
    (source,) = preview.SourceImageSequence
    assert source.ReferencedSOPInstanceUID == meta.sop_instance_uid
    before, after = original.pixel_array, preview.pixel_array
    assert before.shape == after.shape
    assert 39 < psnr(before, after) < 45
    assert after.max() < 2 ** int(original.BitsStored)


def test_the_same_preview_has_the_same_uid_and_another_has_another() -> None:
    other = CodecChoice("wavelet-threshold", {"target_psnr": 30.0})
    assert derived_uid("1.2.3", LOSSY) == derived_uid("1.2.3", LOSSY)
    assert len({derived_uid("1.2.3", LOSSY), derived_uid("1.2.4", LOSSY), derived_uid("1.2.3", other)}) == 3
    assert len(derived_uid("1.2.3", LOSSY)) <= 64


def test_a_lossless_codec_and_what_has_no_pixels_make_none() -> None:
    meta, data = data_set(series_files("CT-LIDC0314-thin")[0])
    with pytest.raises(ConversionError, match="lossless"):
        derive(data, meta.transfer_syntax_uid, CodecChoice("zstd"))
    with pytest.raises(ConversionError, match="no pixel data"):
        derive(b"", EXPLICIT_VR_LITTLE_ENDIAN, LOSSY)


def test_previews_are_made_by_rule_only_and_leave_the_original_alone(tmp_path: Path) -> None:
    rule = {"match": {"Modality": "CT"}, "codec": "wavelet-threshold", "parameters": {"step": 16.0}}
    node = Node(
        tmp_path / "node",
        compression={"previews": [rule], "rules": [{"codec": "interframe", "effort": "fast"}]},
    )
    ct, mr = series_files("CT-LIDC0314-thin")[:1], series_files("MR-heart-cine-MF")[:1]
    for path in [*ct, *mr]:
        node.command("import", path)
    assert node.stats()["instances"] == len(ct) * 2 + len(mr)
    node.command("export", "--all", tmp_path / "out")
    exported = {data_set(p)[0].sop_instance_uid: p for p in (tmp_path / "out").rglob("*.dcm")}
    for path in [*ct, *mr]:
        meta, data = data_set(path)
        assert data_set(exported.pop(meta.sop_instance_uid))[1] == data
    assert len(exported) == len(ct)
    for path in exported.values():
        assert pydicom.dcmread(path).LossyImageCompression == "01"
        dcmtk("dcmftest", path)
    # Once more changes nothing: no preview of a preview, no second one.
    for path in ct:
        node.command("import", path)
    assert node.stats()["instances"] == len(ct) * 2 + len(mr)


def test_a_lossy_codec_is_refused_as_a_rule_and_a_lossless_one_as_a_preview(tmp_path: Path) -> None:
    wrong = Node(tmp_path / "a", compression={"rules": [{"codec": "wavelet-threshold"}]})
    done = wrong.command("stats", check=False)
    assert done.returncode == 2
    assert "lossy" in done.stderr
    wrong = Node(tmp_path / "b", compression={"previews": [{"codec": "interframe"}]})
    assert wrong.command("stats", check=False).returncode == 2
