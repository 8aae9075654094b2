"""Refuse masks that lie among the images they were drawn for: as images they would be copies.

Sets for segmentation are often used for classification, too.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from bioimg.data.folder_layout import Steps
from bioimg.errors import UserError
from bioimg.text import join_first

MASK_WORDS = "mask|masks|seg|segmentation|segmentations|annotation|annotations|gt|groundtruth"
MASK_NAME = re.compile(rf"(.+)[-_ ](?:{MASK_WORDS})(?:[-_ ]?\d+)?", re.IGNORECASE)
"""The name of a mask, such as scan7_mask_1, after that of its image."""
MASK_FOLDER = re.compile(MASK_WORDS, re.IGNORECASE)
IMAGE_FOLDER = re.compile("images?|imgs?", re.IGNORECASE)


def require_no_masks(folder: Path, images: Sequence[Steps]) -> None:
    """Refuse a folder that holds masks beside their images.

    A mask is called like its image, as scan7_mask.png beside scan7.png, or lies in a folder such as
    `masks` beside one such as `images`.

    Raises:
        UserError: lists the masks.
    """
    masks = ["/".join(steps) for steps in (*_masks_by_name(images), *_masks_by_folder(images))]
    if masks:
        raise UserError(
            f"the folder of `data`, {folder}, holds masks beside their images, which would count "
            f"as images of the same classes: {join_first(masks, 3)}. Move them elsewhere."
        )


def _masks_by_name(images: Sequence[Steps]) -> Iterator[Steps]:
    stems = {_stem(steps) for steps in images}
    for steps in images:
        *parents, name = _stem(steps)
        match = MASK_NAME.fullmatch(name)
        if match and (*parents, match[1]) in stems:
            yield steps


def _masks_by_folder(images: Sequence[Steps]) -> Iterator[Steps]:
    names_by_parent = defaultdict(set)
    for steps in images:
        for level, name in enumerate(steps[:-1]):
            names_by_parent[steps[:level]].add(name)
    for steps in images:
        for level, name in enumerate(steps[:-1]):
            siblings = names_by_parent[steps[:level]]
            if MASK_FOLDER.fullmatch(name) and any(map(IMAGE_FOLDER.fullmatch, siblings)):
                yield steps
                break


def _stem(steps: Steps) -> Steps:
    return (*steps[:-1], PurePosixPath(steps[-1]).stem)
