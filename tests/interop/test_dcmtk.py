"""DCMTK's programs as the other side: they send the corpus, query it, and bring it back."""

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    HEVCM10P51,
    HEVCMP51,
    JPEG2000,
    MPEG2MPHL,
    MPEG2MPML,
    MPEG4HP41,
    MPEG4HP41BD,
    MPEG4HP42STEREO,
    MPEG4HP422D,
    MPEG4HP423D,
    UID,
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from tests.corpus_files import corpus, data_set, part10_files, series_files
from tests.nodes import PEER_ENVIRONMENT, Node, dcmtk, free_port, sha256
from tests.scp.wire import EXPLICIT, IMPLICIT, found, store_all, wait_for

HOST = "127.0.0.1"
SERIES = (series_files("MR-heart-cine-MF") + series_files("CT-LungDxA0002"))[:12]
COMPRESSED = [
    path for path in part10_files() if data_set(path)[0].transfer_syntax_uid == "1.2.840.10008.1.2.4.70"
][:3]


@pytest.fixture(scope="module")
def port() -> int:
    """Where storescp listens."""
    return free_port()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[Node]:
    peers = {"dcmtk": {"ae_title": "DCMTK", "host": HOST, "port": port}}
    with Node(tmp_path_factory.mktemp("dcmtk"), dicom={"peers": peers}) as running:
        # By the file's own bytes, so that what comes back can be compared with the file.
        for path in {*SERIES, *COMPRESSED}:
            meta, data = data_set(path)
            row = (meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax_uid, data)
            assert store_all(running.port, [row]) == [0]
        yield running


def study_of(path: Path) -> str:
    return str(dcmread(path, stop_before_pixels=True).StudyInstanceUID)


def files_in(folder: Path) -> dict[str, Path]:
    """Return SOP Instance UID -> received file."""
    return {data_set(path)[0].sop_instance_uid: path for path in folder.iterdir() if path.is_file()}


def same_pixels(first: Dataset, second: Dataset) -> bool:
    return np.array_equal(first.pixel_array, second.pixel_array)


def test_echoscu(node: Node) -> None:
    dcmtk("echoscu", "-aet", "ECHO", "-aec", "DCMPRESS", HOST, str(node.port))


# Every option by which storescu proposes transfer syntaxes, with the one that it adds to the uncompressed ones.
PROPOSALS = {
    "-x=": "", "-xe": "", "-xb": "", "-xi": "",
    "-xs": JPEGLosslessSV1, "-xy": JPEGBaseline8Bit, "-xx": JPEGExtended12Bit,
    "-xv": JPEG2000Lossless, "-xw": JPEG2000, "-xt": JPEGLSLossless, "-xu": JPEGLSNearLossless,
    "-xm": MPEG2MPML, "-xh": MPEG2MPHL, "-xn": MPEG4HP41, "-xl": MPEG4HP41BD,
    "-x2": MPEG4HP422D, "-x3": MPEG4HP423D, "-xo": MPEG4HP42STEREO, "-x4": HEVCMP51, "-x5": HEVCM10P51,
    "-xr": RLELossless, "-xd": DeflatedExplicitVRLittleEndian,
}  # fmt: skip
VIDEO = ["-xm", "-xh", "-xn", "-xl", "-x2", "-x3", "-xo", "-x4", "-x5"]
"""Options that propose one transfer syntax of video and nothing else."""


@pytest.mark.parametrize("how", [[], ["+C"]], ids=["apart", "combined"])
@pytest.mark.parametrize("option", [option for option in PROPOSALS if option not in VIDEO])
def test_storescu_whatever_it_proposes(node: Node, option: str, how: list[str], tmp_path: Path) -> None:
    """Each option proposes other transfer syntaxes; an uncompressed image can be sent with all of them."""
    dataset = dcmread(SERIES[0])
    uid = f"1.2.3.4.{ord(option[-1])}.{len(how) and ord(how[0][1])}"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
    dataset.save_as(tmp_path / "image.dcm")
    dcmtk("storescu", option, *how, HOST, str(node.port), tmp_path / "image.dcm")
    assert uid in found(node.port)


@pytest.mark.parametrize("option", [option for option in PROPOSALS if PROPOSALS[option]])
def test_storescu_sends_what_is_compressed(node: Node, option: str, tmp_path: Path) -> None:
    """In the proposed transfer syntax; what is kept is what was sent, every byte of the pixel data."""
    syntax = UID(PROPOSALS[option])
    image = next((dcmread(p) for p in part10_files() if data_set(p)[0].transfer_syntax_uid == syntax), None)
    if image is None:  # no video in the corpus; neither side looks into it
        image = dcmread(SERIES[0])
        if syntax.is_encapsulated:
            image.PixelData = encapsulate([bytes(range(256)) * 40], has_bot=False)
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.5.{ord(option[-1])}"
    image.file_meta.TransferSyntaxUID = syntax
    image.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    dcmtk("storescu", option, "-R", HOST, str(node.port), tmp_path / "image.dcm")
    node.command("export", image.SOPInstanceUID, str(tmp_path / "out"))
    (came,) = (dcmread(path) for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert came.file_meta.TransferSyntaxUID == syntax
    assert came.PixelData == image.PixelData


def test_termscu_does_not_stop_the_node(node: Node) -> None:
    """DCMTK's own servers end when they are asked to by its private Shutdown SOP class; an archive must not."""
    dcmtk("termscu", HOST, str(node.port), check=False)
    dcmtk("echoscu", HOST, str(node.port))
    assert node.process is not None
    assert node.process.poll() is None


def test_dcmsend_of_the_whole_corpus(tmp_path: Path) -> None:
    folder = corpus() or part10_files()[0].parent
    with Node(tmp_path / "node") as node:
        report = tmp_path / "report.txt"
        dcmtk(
            "dcmsend", "--no-halt", "--no-uid-checks", "--create-report-file", report, HOST, str(node.port),
            "+sd", "+r", folder, check=False,
        )  # fmt: skip
        lines = report.read_text().splitlines()
        numbers = {key.strip(): value for key, _, value in (line.partition(":") for line in lines) if value}
        sent = int(numbers["- sent to the peer"])
        assert wait_for(lambda: len(node.events("store")) >= sent)  # the last is logged after its response
        refused = [event for event in node.events("store") if event["status"] != "0000"]
        assert {event["status"] for event in refused} <= {"A900"}  # file meta that belies its data set
        assert sent - len(refused) == int(numbers["* with status SUCCESS"])
        assert sent >= len({data_set(path)[0].sop_instance_uid for path in part10_files()}) * 0.95
        stats = node.settled()
        assert stats["instances"] >= sent * 0.95
        assert stats["stored_bytes"] < stats["raw_bytes"]


def findscu(node: Node, model: str, *keys: str, folder: Path) -> list[Dataset]:
    folder.mkdir(exist_ok=True)
    arguments = [part for key in keys for part in ("-k", key)]
    dcmtk("findscu", model, "-X", "-od", folder, *arguments, HOST, str(node.port))
    return [dcmread(path, force=True) for path in sorted(folder.glob("rsp*.dcm"))]


def test_findscu_at_every_level_of_both_models(node: Node, tmp_path: Path) -> None:
    dataset = dcmread(SERIES[-1], stop_before_pixels=True)
    patient, study = dataset.PatientID, dataset.StudyInstanceUID
    series, instance = dataset.SeriesInstanceUID, dataset.SOPInstanceUID
    keys = {
        "PATIENT": ["PatientID=" + patient, "PatientName", "NumberOfPatientRelatedInstances"],
        "STUDY": ["StudyInstanceUID=" + study, "ModalitiesInStudy", "NumberOfStudyRelatedInstances"],
        "SERIES": ["SeriesInstanceUID=" + series, "Modality", "NumberOfSeriesRelatedInstances"],
        "IMAGE": ["SOPInstanceUID=" + instance, "InstanceNumber"],
    }
    upper = {
        "PATIENT": [],
        "STUDY": ["PatientID=" + patient],
        "SERIES": ["PatientID=" + patient, "StudyInstanceUID=" + study],
        "IMAGE": ["PatientID=" + patient, "StudyInstanceUID=" + study, "SeriesInstanceUID=" + series],
    }
    for model in ("-P", "-S"):
        for level, asked in keys.items():
            if (model, level) == ("-S", "PATIENT"):
                continue
            above = [key for key in upper[level] if model == "-P" or not key.startswith("PatientID")]
            answers = findscu(
                node, model, "QueryRetrieveLevel=" + level, *above, *asked, folder=tmp_path / (model + level)
            )
            assert len(answers) == 1, (model, level)
            answer = answers[0]
            assert answer.QueryRetrieveLevel == level
            for key in asked:
                keyword, _, value = key.partition("=")
                assert keyword in answer
                if value:
                    assert str(answer[keyword].value) == value
    in_series = [
        path for path in SERIES if dcmread(path, stop_before_pixels=True).SeriesInstanceUID == series
    ]
    (answer,) = findscu(
        node, "-S", "QueryRetrieveLevel=SERIES", "StudyInstanceUID=" + study, "SeriesInstanceUID=" + series,
        "NumberOfSeriesRelatedInstances", folder=tmp_path / "count",
    )  # fmt: skip
    assert answer.NumberOfSeriesRelatedInstances == len(in_series)


def test_findscu_without_a_level_is_refused(node: Node) -> None:
    done = dcmtk("findscu", "-v", "-S", "-k", "StudyInstanceUID", HOST, str(node.port), check=False)
    assert (
        "0xa900" in (done.stdout + done.stderr).lower() or "DataSetDoesNotMatch" in done.stdout + done.stderr
    )


def test_getscu(node: Node, tmp_path: Path) -> None:
    study = study_of(SERIES[-1])
    dcmtk(
        "getscu", "--bit-preserving", "-S", "-od", tmp_path, "-k", "QueryRetrieveLevel=STUDY",
        "-k", "StudyInstanceUID=" + study, HOST, str(node.port),
    )  # fmt: skip
    received = files_in(tmp_path)
    expected = [path for path in SERIES if study_of(path) == study]
    assert len(received) == len(expected)
    for path in expected:
        meta, data = data_set(path)
        got_meta, got = data_set(received[meta.sop_instance_uid])
        if got_meta.transfer_syntax_uid == meta.transfer_syntax_uid:
            assert sha256(got) == sha256(data)
        assert same_pixels(dcmread(path), dcmread(received[meta.sop_instance_uid]))


@pytest.mark.parametrize("option", ["+xi", "+xe"])
def test_getscu_that_takes_native_syntaxes_only(node: Node, tmp_path: Path, option: str) -> None:
    for path in COMPRESSED:
        dcmtk(
            "getscu", option, "-S", "-od", tmp_path, "-k", "QueryRetrieveLevel=STUDY",
            "-k", "StudyInstanceUID=" + study_of(path), HOST, str(node.port),
        )  # fmt: skip
        meta, _ = data_set(path)
        got = files_in(tmp_path)[meta.sop_instance_uid]
        assert data_set(got)[0].transfer_syntax_uid in (IMPLICIT, EXPLICIT)
        dcmtk("dcmdjpeg", path, tmp_path / "decoded")
        assert same_pixels(dcmread(tmp_path / "decoded"), dcmread(got))
        (tmp_path / "decoded").unlink()


@pytest.fixture(scope="module")
def storescp(port: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """DCMTK's receiver; what it is sent lies in its folder bit for bit."""
    folder = tmp_path_factory.mktemp("storescp")
    receiver = subprocess.Popen(
        ["storescp", "--bit-preserving", "+xa", "-aet", "DCMTK", "-od", folder, str(port)],
        env=PEER_ENVIRONMENT,
        cwd=folder,
    )
    with socket.socket() as probe:
        assert wait_for(lambda: probe.connect_ex((HOST, port)) == 0)
    yield folder
    receiver.terminate()
    receiver.wait(10)


def movescu(node: Node, study: str) -> None:
    dcmtk(
        "movescu", "-S", "-aem", "DCMTK", "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID=" + study,
        HOST, str(node.port),
    )  # fmt: skip


@pytest.mark.parametrize("settled", [False, True])
def test_movescu_to_a_bit_preserving_storescp(node: Node, storescp: Path, settled: bool) -> None:
    for path in storescp.iterdir():
        path.unlink()
    if settled:
        node.drained()
    for study in sorted({study_of(path) for path in SERIES + COMPRESSED}):
        movescu(node, study)
    received = files_in(storescp)
    for path in {*SERIES, *COMPRESSED}:
        meta, data = data_set(path)
        got_meta, got = data_set(received[meta.sop_instance_uid])
        # storescp takes one syntax of those of a class; which one is its own choice.
        if got_meta.transfer_syntax_uid == meta.transfer_syntax_uid:
            assert sha256(got) == sha256(data + b"\0" * (len(data) % 2))
        else:
            assert same_pixels(dcmread(path), dcmread(received[meta.sop_instance_uid]))
    exact = sum(
        data_set(received[data_set(path)[0].sop_instance_uid])[0].transfer_syntax_uid
        == data_set(path)[0].transfer_syntax_uid
        for path in {*SERIES, *COMPRESSED}
    )
    assert exact == len({*SERIES, *COMPRESSED})


def test_movescu_to_an_unknown_destination(node: Node) -> None:
    done = dcmtk(
        "movescu", "-v", "-S", "-aem", "NOBODY", "-k", "QueryRetrieveLevel=STUDY",
        "-k", "StudyInstanceUID=" + study_of(SERIES[0]), HOST, str(node.port), check=False,
    )  # fmt: skip
    assert "MoveDestinationUnknown" in done.stdout + done.stderr
    assert wait_for(lambda: node.events("move destination unknown"))
