"""Memory does not grow with the size of an object: 300 MB go in, through a blob, and out."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

LIMIT_MIB = 220

SCRIPT = """
import hashlib, json, resource, sys
from pathlib import Path
import numpy as np
from dcmpress.storage.part10 import FileMeta
from tests.storage.objects import SENDER, encoded, image, open_archive
from tests.storage.test_crash import pipeline_of

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

kind, folder = sys.argv[1], Path(sys.argv[2])
frame = (np.add.outer(np.arange(1024), np.arange(1024)) % 4096).astype(np.uint16)
data_set = image(1, frame[None])
n = 150
archive = open_archive(folder)
pipeline_of(archive).drain()
native = kind == "native"
if native:
    data_set.NumberOfFrames = n
    syntax = "1.2.840.10008.1.2.1"
    head = encoded(data_set)[: -frame.nbytes - 4] + (n * frame.nbytes).to_bytes(4, "little")
    tail = b""
else:
    syntax = "1.2.840.10008.1.2.4.70"
    head = encoded(data_set)[: -frame.nbytes - 12] + bytes.fromhex("e07f1000 4f420000 ffffffff feff00e0 00000000")
    tail = bytes.fromhex("feffdde0 00000000")
uid = str(data_set.SOPInstanceUID)
before = peak()
incoming = archive.begin(FileMeta(str(data_set.SOPClassUID), uid, syntax), SENDER)
digest = hashlib.sha256()
rng = np.random.default_rng(0)
for piece in [head, *range(n), tail]:
    if isinstance(piece, int) and native:
        piece = np.roll(frame, int(rng.integers(9)), 0).tobytes()
    elif isinstance(piece, int):
        piece = bytes.fromhex("feff00e0") + frame.nbytes.to_bytes(4, "little") + rng.bytes(frame.nbytes)
    digest.update(piece)
    incoming.write(piece)
archive.commit(incoming)
received = peak()
counters = pipeline_of(archive).drain()
assert counters.instances == 1, counters
compressed = peak()
found = hashlib.sha256()
for piece in archive.open(uid).pieces():
    found.update(piece)
assert found.digest() == digest.digest()
archive.close()
print(json.dumps([received - before, compressed - before, peak() - before]))
"""


@pytest.mark.long
@pytest.mark.parametrize("kind", ["native", "encapsulated"])
def test_300_megabytes(tmp_path: Path, kind: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, kind, str(tmp_path / "archive")],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    growth = json.loads(done.stdout.splitlines()[-1])
    print(f"{kind}: growth in MiB after receiving, compressing, retrieving: {growth}")
    assert growth[0] < 40
    assert growth[-1] < LIMIT_MIB
