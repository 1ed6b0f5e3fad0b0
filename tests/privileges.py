"""What a container may forbid, and some tests cannot do without; they are marked `privileged`.

Where it is forbidden they fail and say so. `make test` finds out, says what it leaves out, and runs the others.
"""

import subprocess
from pathlib import Path

import pytest

_WAY_OUT = "or leave such tests out: pytest -m 'not privileged'"


def needs_tracing() -> None:
    """Fail if this process may not trace another."""
    if subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode:
        pytest.fail(f"strace may not trace a process here: allow ptrace (CAP_SYS_PTRACE), {_WAY_OUT}")


def needs_mounting(folder: Path) -> None:
    """Fail if this process may not mount a file system on `folder`."""
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.fail(f"no file system can be mounted here: run as root with CAP_SYS_ADMIN, {_WAY_OUT}")
    subprocess.run(["umount", str(folder)], check=True)
