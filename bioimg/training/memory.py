"""Memory that tensors leave stays with the process: to ask Linux for each one's anew can cost a fifth of a training step.

glibc asks for it again for tensors of more than 32 MiB, and gives back what is free at the end of its heaps. Here it does
neither, but for tensors of more than 64 MiB in threads other than the first.
"""

import contextlib
import ctypes

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4  # names of glibc's malloc.h, less their M_
SPARE = 1 << 28
"""Bytes, several of the 64 MiB heaps from which glibc serves all threads but the first: it gives back what is free beyond."""


def keep() -> None:
    """Have this process, all of its threads, keep what they free; where glibc isn't the C library nothing is changed."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (TOP_PAD, SPARE)):
            mallopt(option, value)
