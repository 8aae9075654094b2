"""Image sets in memory whose labels are given and whose pixels don't matter."""

from types import SimpleNamespace

import numpy as np

from bioimg.data import ImageSet


def labelled_images(labels, groups=None, subsets=None) -> SimpleNamespace:
    """Return what a split needs to know of images."""
    labels = np.asarray(labels, np.int64)
    return SimpleNamespace(
        paths=tuple(f"{number}.png" for number in range(len(labels))),
        labels=labels,
        classes=tuple("abcdefgh"[: labels.max() + 1]),
        groups=groups,
        subsets=subsets,
    )


def toy_image_set(labels, digests=None, groups=None, **fields) -> ImageSet:
    """Return a set of black images, named by their digests."""
    images = labelled_images(labels, groups)
    digests = digests or tuple(map(str, range(len(labels))))
    return ImageSet(
        name="toy",
        pixels=np.zeros((len(labels), 8, 8, 3), np.uint8),
        labels=images.labels,
        classes=images.classes,
        paths=digests,
        digests=digests,
        groups=groups,
        **fields,
    )
