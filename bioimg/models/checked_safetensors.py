"""Tensors in a safetensors file, with the metadata needed to use them and a checksum of both. Reading it runs no code."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError

from bioimg.errors import CorruptFileError


class SavedModel(NamedTuple):
    """Tensors by their names in the model's state dict, and metadata about them."""

    tensors: dict[str, torch.Tensor]
    metadata: dict[str, Any]


def encode_tensors(tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> bytes:
    """The bytes of a file that any reader of safetensors can open."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    signed = {**about, "sha256": _content_digest(plain, about)}
    return safetensors.torch.save(plain, metadata={"bioimg": json.dumps(signed)})


def decode_tensors(content: bytes) -> SavedModel:
    """The inverse of `encode`.

    Raises:
        Damaged: these aren't bytes that it returned.
    """
    try:
        tensors, about = (
            safetensors.torch.load(content),
            json.loads(_read_header_metadata(content)["bioimg"]),
        )
        claimed = about.pop("sha256")
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptFileError(f"it can't be read: {error}") from error
    if claimed != _content_digest(tensors, about):
        raise CorruptFileError("its checksum doesn't match its content")
    return SavedModel(tensors, about)


def _read_header_metadata(content: bytes) -> dict[str, str]:
    """The metadata from the header: JSON, after its length in eight bytes. `safetensors` gives it for files only."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length])["__metadata__"]


def _content_digest(tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> str:
    """SHA-256 of the metadata and of name, type, shape and bytes of each tensor, sorted by name."""
    found = hashlib.sha256(json.dumps(about).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
