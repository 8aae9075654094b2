"""What `precision` means on a device. It depends on what the device can do, not on its name."""

from collections.abc import Mapping
from typing import Any

import torch

NUMBER_FORMATS = ("float32", "float16", "bfloat16")
"""What `precision` may be beside `auto`. Hardware that is fast in one can compute in the former."""
MIN_LOSS_SCALE = 1.0
"""The loss scale below which float16 holds no gradients of a trial."""


class LossScaler(torch.amp.GradScaler):
    """Scale the loss so that float16 can hold its gradients, and count the steps that it skips.

    A step whose gradients overflow changes no weights and halves the scale (Micikevicius et al.
    2018, arXiv:1710.03740). Workers agree on it, since DDP adds up their gradients before they are
    checked. For other types than float16, this does nothing.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(device.type, enabled=dtype == torch.float16)
        if self.is_enabled():
            self._one = torch.ones((), device=device)
            self._skipped_steps = torch.zeros((), dtype=torch.int64, device=device)

    @property
    def skipped_steps(self) -> int | None:
        """The steps that were skipped; None if no loss is scaled."""
        return int(self._skipped_steps.item()) if self.is_enabled() else None

    def update(self, new_scale: float | torch.Tensor | None = None) -> None:
        """Update the scale after a step, without waiting for the device."""
        if self.is_enabled():
            scale = self.scale(self._one)
            super().update(new_scale)
            self._skipped_steps += self.scale(self._one) < scale

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed trial needs; nothing if no loss is scaled."""
        state = super().state_dict()
        return {**state, "skipped_steps": self.skipped_steps} if state else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume from what `state_dict` returned."""
        if self.is_enabled():
            super().load_state_dict(state_dict)
            self._skipped_steps.fill_(state_dict["skipped_steps"])


def resolve_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the type in which autocast computes; float32 stands for no autocast."""
    return getattr(torch, fastest_format(device) if precision == "auto" else precision)


def fastest_format(device: torch.device) -> str:
    """Return the number format in which the hardware multiplies matrices fastest.

    A CPU with AMX does in bfloat16. AVX512_BF16 alone isn't enough: on a Xeon whose AMX isn't
    available to its virtual machine, products take twice as long as in float32
    (`experiments/benchmark.py step`). GPUs have tensor cores for float16 from compute capability
    7.0 on, and for bfloat16 from 8.0 on.
    """
    if device.type == "cpu":
        return "bfloat16" if torch.cpu.get_capabilities().get("amx_bf16") else "float32"
    major, _ = torch.cuda.get_device_capability(device)
    if major >= 8:
        return "bfloat16"
    return "float16" if major == 7 else "float32"


def prediction_dtype(row: Mapping[str, Any], device: torch.device) -> torch.dtype:
    """Return the type in which a trial's model predicts: that of its row in the trials table.

    A CPU predicts in float32 what a GPU has trained, since it is slow in the other types.
    """
    if device.type == "cpu" and row["device"] != "cpu":
        return torch.float32
    return getattr(torch, row["precision_used"])


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return autocast to a type, which does nothing for float32."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a type as users give it: `bfloat16` for torch.bfloat16."""
    return str(dtype).removeprefix("torch.")


def allow_tf32(allowed: bool) -> None:
    """Set whether float32 products and convolutions on CUDA may use TF32.

    This applies to the whole process, so each trial sets it. By default torch allows it for
    convolutions but not for products.
    """
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed
