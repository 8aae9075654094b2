"""Memory that tensors free stays with the process: asking Linux for it again can cost a fifth of a training step.

By default, glibc asks Linux for each tensor of more than 32 MiB, and returns what is free at the end of its heaps. Here it
does neither, except for tensors of more than 64 MiB in threads other than the first.
"""

import contextlib
import ctypes

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4  # from glibc's malloc.h, without the prefix M_
MAX_FREE_BYTES = 1 << 28
"""Bytes that may stay free: several of the 64 MiB heaps that glibc uses for all threads but the first. It returns the rest."""


def keep_freed_memory() -> None:
    """Let all threads of this process keep the memory that they free. Changes nothing if the C library isn't glibc."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, MAX_FREE_BYTES)):
            mallopt(option, value)
