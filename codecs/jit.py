"""How kernels are compiled: `njit` with the GIL released, cached on disk where that is possible.

Numba's on-disk cache looks only at the file that holds a kernel, not at the helpers it calls in other
files, so a changed helper would leave a stale kernel behind. The cache folder is therefore named after a
hash over every source file of this room and the settings that change what is compiled: any edit, another
Numba, or bounds checking (which Numba's own index leaves out too) starts a fresh one.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba import config

F = TypeVar("F", bound=Callable[..., Any])


def _source_hash() -> str:
    settings = (numba.__version__, config.BOUNDSCHECK, config.OPT, config.CPU_NAME, config.CPU_FEATURES)
    digest = hashlib.sha256(repr(settings).encode())
    room = Path(__file__).resolve().parent
    for source in sorted(room.rglob("*.py")):
        digest.update(source.relative_to(room).as_posix().encode())
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _usable_cache_folder() -> Path | None:
    """Return the folder for compiled kernels, or None if none can be written to."""
    if config.CACHE_DIR:
        base = Path(config.CACHE_DIR)
    elif "XDG_CACHE_HOME" in os.environ:
        base = Path(os.environ["XDG_CACHE_HOME"]) / "dcmpress"
    else:
        base = Path("~/.cache/dcmpress").expanduser()
    folder = base / f"kernels-{_source_hash()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, RuntimeError):  # RuntimeError: no home folder
        return None
    return folder


CACHE_FOLDER: Path | None = _usable_cache_folder()
"""Where compiled kernels are kept; None: nowhere, so every start compiles them anew."""

if CACHE_FOLDER is not None:
    config.CACHE_DIR = str(CACHE_FOLDER)


def njit(function: F) -> F:
    """Compile `function` with Numba: `nogil`, without fast-math, cached on disk."""
    compiled: F = numba.njit(nogil=True, cache=CACHE_FOLDER is not None)(function)
    return compiled


def inline(function: F) -> F:
    """Like `njit`, for a small function that only other kernels call: inlined into its callers by LLVM."""
    compiled: F = numba.njit(nogil=True, cache=CACHE_FOLDER is not None, forceinline=True)(function)
    return compiled
