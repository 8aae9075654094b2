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
    said = json.dumps(about)
    return safetensors.torch.save(plain, metadata={"bioimg": said, "sha256": _checksum(plain, said)})


def decode(content: bytes) -> Saved:
    """What `encode` was given. Files of earlier versions have no checksum.

    Raises:
        Damaged: these aren't the bytes that it gave.
    """
    try:
        tensors, metadata = safetensors.torch.load(content), _metadata(content)
        said, about = metadata["bioimg"], json.loads(metadata["bioimg"])
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"it can't be read: {error}") from error
    if "sha256" in metadata and metadata["sha256"] != _checksum(tensors, said):
        raise Damaged("its checksum isn't that of what it holds")
    return Saved(tensors, about)


def _metadata(content: bytes) -> dict[str, str]:
    """Of the header: JSON, after its length in eight bytes. `safetensors` shows it for files only."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length])["__metadata__"]


def _checksum(tensors: Mapping[str, torch.Tensor], said: str) -> str:
    """SHA-256 of the text, and of name, type, shape and bytes of each tensor by name."""
    found = hashlib.sha256(said.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
