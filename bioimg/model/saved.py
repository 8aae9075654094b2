"""Tensors in a safetensors file, with what using them needs to know and a checksum of all of it. Reading it runs no code."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError


class Damaged(ValueError):
    """The bytes of a file aren't those that were written."""


class Saved(NamedTuple):
    """Tensors by their names in the model's state dict, and what is to be known of them."""

    tensors: dict[str, torch.Tensor]
    about: dict[str, Any]


def encode(tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> bytes:
    """The bytes of a file that any reader of safetensors can open."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    said = {**about, "sha256": _checksum(plain, about)}
    return safetensors.torch.save(plain, metadata={"bioimg": json.dumps(said)})


def decode(content: bytes) -> Saved:
    """What `encode` was given.

    Raises:
        Damaged: these aren't the bytes that it gave.
    """
    try:
        tensors, about = safetensors.torch.load(content), json.loads(_metadata(content)["bioimg"])
        claimed = about.pop("sha256")
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(f"it can't be read: {error}") from error
    if claimed != _checksum(tensors, about):
        raise Damaged("its checksum isn't that of what it holds")
    return Saved(tensors, about)


def _metadata(content: bytes) -> dict[str, str]:
    """Of the header: JSON, after its length in eight bytes. `safetensors` shows it for files only."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length])["__metadata__"]


def _checksum(tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> str:
    """SHA-256 of what is said, and of name, type, shape and bytes of each tensor by name."""
    found = hashlib.sha256(json.dumps(about).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
