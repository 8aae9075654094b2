"""What a run tells about its images before it reads them."""

from collections.abc import Sequence

import numpy as np

from bioimg.data.image_set import SUBSETS, TRAIN, VAL
from bioimg.data.load import ListedDataset
from bioimg.data.splitting import draws_validation
from bioimg.text import join_first


def describe_images(listed: ListedDataset) -> list[str]:
    """Return sentences about the images, how their source was understood, and what was left out."""
    index = listed.index
    counts = np.bincount(index.labels, minlength=len(index.classes)).tolist()
    classes = _format_counts(index.classes, counts)
    texts = [f"{index.name}: {len(index)} images in {len(index.classes)} classes: {classes}."]
    if index.assumptions:
        texts.append(f"How it is read: {'; '.join(index.assumptions)}.")
    if index.possible_images:
        texts.append(
            f"warning: {len(index.possible_images)} files were left out that may be images, for "
            f"want of a known suffix or a class: {join_first(index.possible_images, 3)}."
        )
    if listed.split_config.split == "folder":
        texts += _describe_parts(listed)
    return texts


def _describe_parts(listed: ListedDataset) -> list[str]:
    counts = np.bincount(listed.subsets, minlength=len(SUBSETS)).tolist()
    texts = [f"Its own parts are used: {_format_counts(SUBSETS, counts)}."]
    if draws_validation(listed.index):
        way = "of each class at random" if listed.index.groups is None else "in whole groups"
        trained = counts[TRAIN] + counts[VAL]
        texts.append(
            f"It gives no validation images, so {counts[VAL]} of the {trained} training images are "
            f"taken for that, {way}. The test images stay as they are."
        )
    return texts


def _format_counts(names: Sequence[str], counts: Sequence[int]) -> str:
    return join_first(f"{name} ({count})" for name, count in zip(names, counts, strict=True))
