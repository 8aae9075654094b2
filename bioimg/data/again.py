"""Read images of an earlier run again from where they were."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from bioimg.config import TrialConfig
from bioimg.data.decode import quiet_decoders
from bioimg.data.planes import fitted
from bioimg.data.read import Rule, attempt, digest_of


class Unchanged(Mapping[str, np.ndarray]):
    """Maps an image's path to its pixels, uint8 [size, size, 3], read on access, for files whose content hasn't changed.

    digests: by path, as in `ImageSet`. Images of more than 8 bits are missing, since their scaling depends on all others.
    """

    def __init__(self, trial: TrialConfig, digests: Mapping[str, str]) -> None:
        place = Path(trial.data).expanduser()
        self._folder = place if place.is_dir() else place.parent
        self._rule, self._digests = Rule.of(trial), digests

    def __getitem__(self, path: str) -> np.ndarray:
        with quiet_decoders():
            image = attempt(self._folder / path, self._rule)
        if isinstance(image, Exception) or image.pixels.dtype != np.uint8 or digest_of(image.pixels) != self._digests[path]:
            raise KeyError(path)
        return fitted(image.pixels, self._rule.image_size, self._rule.resize)

    def __iter__(self) -> Iterator[str]:
        return iter(self._digests)

    def __len__(self) -> int:
        return len(self._digests)
