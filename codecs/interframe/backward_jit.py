"""How the kernels of the backward-adaptive core are compiled.

As in `codecs/jit.py`, and without reference counting: the kernels allocate nothing and only borrow the
arrays they are given, while the counting would be an atomic instruction at each inlined call, several in
every pixel.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import numba

from dcmpress.codecs.jit import CACHE_FOLDER

F = TypeVar("F", bound=Callable[..., Any])

_OPTIONS = {"nogil": True, "cache": CACHE_FOLDER is not None, "_nrt": False}


def njit(function: F) -> F:
    """Compile a kernel that allocates no arrays."""
    compiled: F = numba.njit(**_OPTIONS)(function)
    return compiled


def inline(function: F) -> F:
    """Compile a small function that only other kernels call, inlined into its callers by LLVM."""
    compiled: F = numba.njit(forceinline=True, **_OPTIONS)(function)
    return compiled
