"""How the kernels of the backward-adaptive core are compiled.

As in `codecs/jit.py`, and without reference counting: the kernels allocate nothing and only borrow the
arrays they are given, while the counting would be an atomic instruction at each inlined call, several in
every pixel.
"""

from collections.abc import Callable
from typing import Any

import numba

from dcmpress.codecs.jit import CACHE_FOLDER

_OPTIONS = {"nogil": True, "cache": CACHE_FOLDER is not None, "_nrt": False, "error_model": "numpy"}


def njit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a kernel that allocates no arrays."""
    compiled: Callable[..., Any] = numba.njit(**_OPTIONS)(function)
    return compiled


def inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a small function that only other kernels call, inlined into its callers by LLVM."""
    compiled: Callable[..., Any] = numba.njit(forceinline=True, **_OPTIONS)(function)
    return compiled
