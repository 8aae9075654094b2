"""Masks among the images they were drawn for are refused, all else that is called so isn't."""

import pytest

from bioimg.errors import UserError
from support.image_folders import find_images, write_noise_image


def write_images(folder, *paths):
    for number, path in enumerate(paths):
        write_noise_image(folder / path, seed=number)
    return folder


@pytest.mark.parametrize(
    ("paths", "masks"),
    [
        (("a/x (1).png", "a/x (1)_mask.png", "b/y.png"), r"a/x \(1\)_mask\.png"),
        (("a/x.jpg", "a/x_Segmentation.png", "b/y.png", "b/y-gt-2.tif"), "a/x_Segm.*, b/y-gt-2"),
        (("a/x.png", "b/images/y.png", "b/masks/y.png"), "b/masks/y.png"),
        (("images/1.png", "images/2.png", "masks/1.png", "masks/2.png"), "masks/1.png, masks/2"),
        (
            ("train/a/1.png", "train/b/1.png", "test/a/2.png", "test/b/2 mask.png", "test/b/2.png"),
            "test/b/2 mask.png",
        ),
    ],
)
def test_masks_beside_their_images_are_refused(tmp_path, paths, masks):
    with pytest.raises(UserError, match=f"masks beside their images.*: {masks}"):
        find_images(write_images(tmp_path, *paths))


@pytest.mark.parametrize(
    "paths",
    [
        ("mask/1.png", "no_mask/1.png"),
        ("a/1_mask.png", "b/1_mask.png"),
        ("a/x.png", "a/x_masked.png", "b/unmask.png"),
        ("annotations/1.png", "background/1.png"),
    ],
)
def test_images_called_masks_without_their_images_are_images(tmp_path, paths):
    assert len(find_images(write_images(tmp_path, *paths))) == len(paths)
