"""What `precision` means on a device. It depends on what the device can do, not on its name."""

import torch


def resolve_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the type in which autocast computes: bfloat16, or float32 for no autocast."""
    if precision == "auto":
        return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    return {"bfloat16": torch.bfloat16, "float32": torch.float32}[precision]


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


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return True if the hardware multiplies matrices faster in bfloat16 than in float32.

    A CPU with AMX does. AVX512_BF16 alone isn't enough: on a Xeon whose AMX isn't available to its
    virtual machine, products take twice as long as in float32 (`experiments/benchmark.py step`).
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu.get_capabilities().get("amx_bf16"))
