"""Read images of an earlier session again from where they were."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from bioimg.config import DatasetConfig
from bioimg.data.decoding.channels import resize_square
from bioimg.data.decoding.decode import silence_decoders
from bioimg.data.pixel_cache import DecodeOptions, pixel_digest, try_decode


class UnchangedImages(Mapping[str, np.ndarray]):
    """Map an image's path to its pixels, uint8 [size, size, 3], if its content hasn't changed.

    Files are read on access. `digests` are those of `ImageSet`, by path. Images of more than 8 bits
    are missing, since their scaling depends on all others.
    """

    def __init__(self, config: DatasetConfig, digests: Mapping[str, str]) -> None:
        data_path = Path(config.data).expanduser()
        self._image_folder = data_path if data_path.is_dir() else data_path.parent
        self._options = DecodeOptions.from_config(config)
        self._digests = digests

    def __getitem__(self, path: str) -> np.ndarray:
        digest = self._digests[path]
        with silence_decoders():
            image = try_decode(self._image_folder / path, self._options)
        if isinstance(image, Exception) or image.pixels.dtype != np.uint8:
            raise KeyError(path)
        if pixel_digest(image.pixels) != digest:
            raise KeyError(path)
        return resize_square(image.pixels, self._options.image_size, self._options.resize)

    def __iter__(self) -> Iterator[str]:
        return iter(self._digests)

    def __len__(self) -> int:
        return len(self._digests)
