"""Read images of an earlier run again from where they were."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from bioimg.config import DatasetConfig
from bioimg.data.decoding.channels import resize_square
from bioimg.data.decoding.decode import silence_decoders
from bioimg.data.pixel_cache import DecodeOptions, pixel_digest, try_decode


class UnchangedImages(Mapping[str, np.ndarray]):
    """Maps an image's path to its pixels, uint8 [size, size, 3], read on access, for files whose content hasn't changed.

    digests: by path, as in `ImageSet`. Images of more than 8 bits are missing, since their scaling depends on all others.
    """

    def __init__(self, config: DatasetConfig, digests: Mapping[str, str]) -> None:
        place = Path(config.data).expanduser()
        self._image_folder = place if place.is_dir() else place.parent
        self._options, self._digests = DecodeOptions.from_config(config), digests

    def __getitem__(self, path: str) -> np.ndarray:
        with silence_decoders():
            image = try_decode(self._image_folder / path, self._options)
        if (
            isinstance(image, Exception)
            or image.pixels.dtype != np.uint8
            or pixel_digest(image.pixels) != self._digests[path]
        ):
            raise KeyError(path)
        return resize_square(image.pixels, self._options.image_size, self._options.resize)

    def __iter__(self) -> Iterator[str]:
        return iter(self._digests)

    def __len__(self) -> int:
        return len(self._digests)
