"""From files to one array of pixels."""

import dataclasses
import errno
import os
import subprocess
import sys

import numpy as np
import pytest
import tifffile
from PIL import Image

from bioimg.config import DatasetConfig
from bioimg.data import load_dataset, pixel_cache
from bioimg.data.decoding.decode import decode_image
from bioimg.errors import UserError
from support.image_folders import write_image_folder, write_noise_image


def test_images_are_decoded_to_chosen_size(tmp_path):
    images = load_dataset(
        DatasetConfig(data=str(write_image_folder(tmp_path)), image_size=8)
    ).images
    assert images.pixels.shape == (14, 8, 8, 3)
    assert images.pixels.dtype == np.uint8
    assert len(images.paths) == len(images.digests) == len(images) == 14
    assert len(set(images.digests)) == 14
    assert not images.synthetic


def test_image_of_right_size_is_unchanged(tmp_path):
    write_image_folder(tmp_path)
    write_noise_image(tmp_path / "a" / "square.png", size=(8, 8))
    images = load_dataset(DatasetConfig(data=str(tmp_path), image_size=8)).images
    expected = np.asarray(Image.open(tmp_path / "a" / "square.png"))
    np.testing.assert_array_equal(images.pixels[images.paths.index("a/square.png")], expected)


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".webp", ".tif", ".jpg"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_colour_and_grey_of_every_format_become_rgb(tmp_path, suffix, mode):
    path = tmp_path / f"x{suffix}"
    write_noise_image(path, mode=mode)
    image = decode_image(path).pixels
    assert image.shape == (10, 12, 3)
    np.testing.assert_allclose(image, np.asarray(Image.open(path).convert("RGB")), atol=2)


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "packbits", "jpeg", "zstd"])
def test_tiff_of_every_compression_is_read(tmp_path, compression):
    smooth = np.tile(np.arange(32, dtype=np.uint8)[:, None, None] * 4, (1, 32, 3))
    tifffile.imwrite(tmp_path / "x.tif", smooth, compression=compression, photometric="rgb")
    np.testing.assert_allclose(decode_image(tmp_path / "x.tif").pixels.astype(int), smooth, atol=4)


def test_wrongly_named_image_is_read_by_content(tmp_path):
    write_noise_image(tmp_path / "x.png")
    tifffile.imwrite(tmp_path / "y.png", np.zeros((4, 4, 3), np.uint8), compression="lzw")
    (tmp_path / "x.png").rename(tmp_path / "x.jpg")
    assert decode_image(tmp_path / "x.jpg").pixels.shape == (10, 12, 3)
    assert decode_image(tmp_path / "y.png").pixels.shape == (4, 4, 3)


def test_exif_orientation_is_applied(tmp_path):
    image = Image.new("RGB", (20, 10))
    exif = image.getexif()
    exif[274] = 6  # a quarter turn
    image.save(tmp_path / "x.jpg", exif=exif)
    assert decode_image(tmp_path / "x.jpg").pixels.shape == (20, 10, 3)


def test_all_truncated_images_are_named(tmp_path):
    write_image_folder(tmp_path)
    broken = tmp_path / "a" / "p0_0.png"
    broken.write_bytes(broken.read_bytes()[:60])
    (tmp_path / "b" / "p1_1.png").write_text("text")
    with pytest.raises(
        UserError,
        match=r"2 of 14 images in '[^']+' can't be read: a/p0_0\.png \(.+\), b/p1_1\.png \(.+\)",
    ):
        load_dataset(DatasetConfig(data=str(tmp_path)))


def test_progress_counts_every_image(tmp_path):
    counts = []
    load_dataset(
        DatasetConfig(data=str(write_image_folder(tmp_path))),
        progress=lambda done, total: counts.append((done, total)),
    )
    assert counts == [(done, 14) for done in range(1, 15)]


def test_fingerprint_covers_pixels_labels_and_subsets(tmp_path):
    images = load_dataset(DatasetConfig(data=str(write_image_folder(tmp_path / "one")))).images
    (tmp_path / "one").rename(tmp_path / "two")
    assert (
        load_dataset(DatasetConfig(data=str(tmp_path / "two"))).images.fingerprint
        == images.fingerprint
    )
    parts = np.zeros(14, np.int8)
    assert dataclasses.replace(images, subsets=parts).fingerprint != images.fingerprint
    assert dataclasses.replace(images, labels=images.labels[::-1]).fingerprint != images.fingerprint
    file = tmp_path / "two" / "a" / "p0_0.png"
    pixels = np.asarray(Image.open(file)).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(file)
    assert (
        load_dataset(DatasetConfig(data=str(tmp_path / "two"))).images.fingerprint
        != images.fingerprint
    )


@pytest.mark.ray
def test_decoding_in_processes_gives_the_same_set(tmp_path, monkeypatch):
    config = DatasetConfig(
        data=str(write_image_folder(tmp_path / "set", count=40)), image_size=8, skip_unreadable=True
    )
    (tmp_path / "set" / "a" / "p0_0.png").write_text("text")
    alone, counts = load_dataset(config).images, []
    monkeypatch.setenv("BIOIMG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(pixel_cache, "MIN_PARALLEL_BYTES", 0)
    monkeypatch.setattr(pixel_cache, "CHUNK_BYTES", 3000)
    together = load_dataset(
        config,
        progress=lambda done, total: counts.append((done, total)),
    ).images
    np.testing.assert_array_equal(together.pixels, alone.pixels)
    assert (together.fingerprint, together.unreadable_skipped) == (alone.fingerprint, 1)
    assert counts == [(done, 80) for done in range(1, 81)]
    with pytest.raises(UserError, match=r"1 of 80 images in '[^']+' can't be read: a/p0_0\.png \("):
        load_dataset(dataclasses.replace(config, skip_unreadable=False))


DECODE_AND_EXIT = """
import sys
from bioimg.cli.main import exit_process
from bioimg.config import DatasetConfig
from bioimg.data import load_dataset, pixel_cache
pixel_cache.MIN_PARALLEL_BYTES = 0
load_dataset(DatasetConfig(data=sys.argv[1], image_size=8))
exit_process(0)
"""


@pytest.mark.ray
def test_program_that_decoded_in_processes_ends_without_a_word(tmp_path):
    folder = write_image_folder(tmp_path / "set", count=40)
    environment = {**os.environ, "BIOIMG_CACHE": str(tmp_path / "cache")}
    program = [sys.executable, "-c", DECODE_AND_EXIT, str(folder)]
    ended = subprocess.run(
        program, env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    assert ended.stderr == ""


def test_full_disk_is_not_taken_for_unreadable_images(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pixel_cache, "_write_row", fail)
    message = r"the cache folder .* can't be written: No space left on device\. Free some space"
    config = DatasetConfig(data=str(write_image_folder(tmp_path)), skip_unreadable=True)
    with pytest.raises(UserError, match=message):
        load_dataset(config)
