"""Image sets in memory whose labels are given and whose pixels don't matter."""

import numpy as np

from bioimg.data import ImageSet


def labelled_images(labels, groups=None, subsets=None, digests=None, **fields) -> ImageSet:
    """Return a set of black images, named by their numbers."""
    labels = np.asarray(labels, np.int64)
    return ImageSet(
        name="toy",
        pixels=np.zeros((len(labels), 8, 8, 3), np.uint8),
        labels=labels,
        classes=tuple("abcdefgh"[: labels.max() + 1]),
        paths=tuple(f"{number}.png" for number in range(len(labels))),
        groups=groups,
        subsets=subsets,
        digests=digests or tuple(map(str, range(len(labels)))),
        **fields,
    )
