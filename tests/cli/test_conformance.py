"""The Conformance Statement in the documents is what the code says."""

import subprocess
import sys

from tests.corpus_files import PROJECT


def test_the_document_has_not_drifted() -> None:
    """Write it anew by: dcmpress conformance --config config.yaml > docs/conformance.md"""
    # In a process of its own: other tests teach pynetdicom more storage SOP classes than it comes with.
    said = subprocess.run(
        [sys.executable, "-m", "dcmpress", "conformance", "--config", "config.yaml"],
        cwd=PROJECT,
        capture_output=True,
        check=True,
    )
    assert (PROJECT / "docs" / "conformance.md").read_bytes() == said.stdout
