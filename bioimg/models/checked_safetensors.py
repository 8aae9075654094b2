"""Tensors in a safetensors file, with the metadata needed to use them and a checksum of both.

Reading such a file runs no code.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError

from bioimg.errors import CorruptFileError

METADATA_KEY = "bioimg"
"""The entry of the file's header that holds our metadata as JSON."""
LENGTH_BYTES = 8
"""Bytes at the start of a safetensors file that give the length of its header."""


class SavedModel(NamedTuple):
    """Tensors by their names in the model's state dict, and metadata about them."""

    tensors: dict[str, torch.Tensor]
    metadata: dict[str, Any]

    @property
    def scaling_limits(self) -> tuple[tuple[float, float], ...] | None:
        """The intensities that training mapped to 0 and 255, per channel; None if it didn't."""
        scaling = self.metadata.get("scaling")
        return tuple((low, high) for low, high in scaling) if scaling else None


def encode_tensors(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> bytes:
    """Return the bytes of a file that any reader of safetensors can open."""
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    signed = {**metadata, "sha256": content_digest(on_cpu, metadata)}
    return safetensors.torch.save(on_cpu, metadata={METADATA_KEY: json.dumps(signed)})


def decode_tensors(content: bytes) -> SavedModel:
    """Return the tensors and the metadata that `encode_tensors` was given.

    Raises:
        CorruptFileError: `encode_tensors` didn't return these bytes.
    """
    try:
        tensors = safetensors.torch.load(content)
        metadata = json.loads(_read_header_metadata(content)[METADATA_KEY])
        expected_digest = metadata.pop("sha256")
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptFileError(f"it can't be read: {error}") from error
    if expected_digest != content_digest(tensors, metadata):
        raise CorruptFileError("its checksum doesn't match its content")
    return SavedModel(tensors, metadata)


def _read_header_metadata(content: bytes) -> dict[str, str]:
    """Read the metadata from the header, which `safetensors` does for files on disk only."""
    length = int.from_bytes(content[:LENGTH_BYTES], "little")
    return json.loads(content[LENGTH_BYTES : LENGTH_BYTES + length])["__metadata__"]


def content_digest(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the metadata and of each tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(json.dumps(metadata).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
