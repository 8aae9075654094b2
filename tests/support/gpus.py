"""A GPU whose memory tests choose."""

import pytest
import torch


def set_gpu_memory(patch: pytest.MonkeyPatch, total: int, share: float = 1.0) -> None:
    """Let every GPU seem to have so many bytes, of which this process may use a share."""
    patch.setattr(torch.cuda, "mem_get_info", lambda device: (0, total))
    patch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: share)
