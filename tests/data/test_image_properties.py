"""Properties of any set of images; hypothesis generates the sets."""

import dataclasses
import itertools
import tempfile
from pathlib import Path

import numpy as np
import tifffile
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from bioimg.config import DatasetConfig, SplitConfig
from bioimg.data import load_dataset, split_images
from bioimg.data.decoding.channels import resize_square
from bioimg.data.decoding.decode import decode_image
from bioimg.data.file_array import FileArray
from bioimg.data.image_folder import IGNORED_NAMES
from bioimg.data.pixel_cache import DecodeOptions, _decode_files
from bioimg.errors import UserError
from support.image_sets import labelled_images

few = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
many = settings(max_examples=40, deadline=None)
names = st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=20
).filter(lambda name: name[0] != "." and name.lower() not in IGNORED_NAMES)


@st.composite
def grouped(draw):
    """Labels of up to four classes, and a group for each image."""
    count = draw(st.integers(12, 120))
    labels = draw(st.lists(st.integers(0, draw(st.integers(1, 3))), min_size=count, max_size=count))
    groups = draw(
        st.lists(st.integers(0, draw(st.integers(2, 30))), min_size=count, max_size=count)
    )
    labels = np.unique(labels, return_inverse=True)[1]
    assume(labels.max() > 0)
    return labelled_images(labels, tuple(map(str, groups)))


trials = st.builds(
    lambda kind, folds, fold: SplitConfig(split=kind, folds=folds, fold=fold % max(folds, 1)),
    st.sampled_from(["stratified", "grouped"]),
    st.sampled_from([0, 3, 4, 5]),
    st.integers(0, 4),
)


@many
@given(grouped(), trials)
def test_split_is_a_partition_with_all_classes(images, trial):
    try:
        split = split_images(images, trial)
    except UserError:
        return
    subsets = (split.train, split.val, split.test)
    assert sorted(np.concatenate(subsets)) == list(range(len(images.labels)))
    assert all(len(set(images.labels[subset])) == len(images.classes) for subset in subsets)
    shared = [
        {images.groups[i] for i in a} & {images.groups[i] for i in b}
        for a, b in zip(subsets, (*subsets[1:], subsets[0]), strict=True)
    ]
    assert split.leaks_groups == any(shared)
    if trial.split == "grouped":
        assert not split.leaks_groups


@many
@given(grouped(), trials)
def test_split_does_not_depend_on_group_names(images, trial):
    images = labelled_images(images.labels, tuple(group.zfill(3) for group in images.groups))
    renamed = labelled_images(images.labels, tuple(f"patient {group}" for group in images.groups))
    try:
        split = split_images(images, trial)
    except UserError:
        return
    assert split.test.tolist() == split_images(renamed, trial).test.tolist()


@many
@given(st.lists(st.integers(0, 3), min_size=20, max_size=60), st.data())
def test_duplicates_are_held_out_images_with_copies(digests, data):
    labels = np.arange(len(digests)) % 2
    images = labelled_images(
        labels, digests=tuple(f"{d if d else 100 + i}" for i, d in enumerate(digests))
    )
    split = split_images(images, SplitConfig())
    where = {i: name for name in ("train", "val", "test") for i in getattr(split, name).tolist()}
    twins = [
        i
        for i in where
        if any(where[i] != where[j] and images.digests[i] == images.digests[j] for j in where)
    ]
    assert split.duplicate_count == sum(where[i] != "train" for i in twins)


@many
@given(st.data())
def test_fingerprint_ignores_order_and_reveals_changes(data):
    labels = data.draw(
        st.lists(st.integers(0, 1), min_size=4, max_size=12).filter(
            lambda some: len(set(some)) == 2
        )
    )
    images = labelled_images(labels)
    order = data.draw(st.permutations(range(len(labels))))
    shuffled = dataclasses.replace(
        images,
        labels=images.labels[order],
        digests=tuple(images.digests[i] for i in order),
        paths=tuple(images.paths[i] for i in order),
    )
    assert shuffled.fingerprint == images.fingerprint
    changed = data.draw(st.integers(0, len(labels) - 1))
    other = images.labels.copy()
    other[changed] = 1 - other[changed]
    assert dataclasses.replace(images, labels=other).fingerprint != images.fingerprint
    digests = tuple("changed" if i == changed else d for i, d in enumerate(images.digests))
    assert dataclasses.replace(images, digests=digests).fingerprint != images.fingerprint


depths = st.sampled_from([np.uint8, np.uint16, np.float32])
shapes = st.tuples(st.integers(1, 24), st.integers(1, 24))


@many
@given(
    st.data(),
    depths,
    shapes,
    st.sampled_from([None, "lzw", "deflate", "packbits", "zstd"]),
    st.booleans(),
)
def test_any_tiff_is_read_as_written(data, depth, shape, compression, colour):
    elements = {"allow_nan": False} if depth is np.float32 else {}
    pixels = data.draw(
        arrays.arrays(
            depth,
            (*shape, 3) if colour else shape,
            elements=arrays.from_dtype(np.dtype(depth), **elements),
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.tif"
        tifffile.imwrite(
            path, pixels, compression=compression, photometric="rgb" if colour else "minisblack"
        )
        np.testing.assert_array_equal(
            decode_image(path).pixels, pixels if colour else np.repeat(pixels[..., None], 3, 2)
        )


@many
@given(st.data(), shapes, st.sampled_from([".png", ".bmp", ".webp"]))
def test_any_lossless_image_is_read_as_written(data, shape, suffix):
    pixels = data.draw(arrays.arrays(np.uint8, (*shape, 3)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x{suffix}"
        Image.fromarray(pixels).save(path, **({"lossless": True} if suffix == ".webp" else {}))
        np.testing.assert_array_equal(decode_image(path).pixels, pixels)


@many
@given(
    st.binary(max_size=300),
    st.sampled_from(
        [b"", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*", b"BM", b"\xff\xd8\xff", b"RIFF"]
    ),
)
def test_any_bytes_give_an_image_or_a_reason(content, start):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.png"
        path.write_bytes(start + content)
        Path(folder, "pixels").touch()
        outcome = _decode_files(
            [(0, path)], DecodeOptions(8, max_pixels=10_000), Path(folder, "pixels")
        )
        assert len(outcome) == 1
        assert outcome[0].error or outcome[0].height * outcome[0].width <= 10_000


@many
@given(st.data(), depths, shapes, st.integers(1, 24), st.sampled_from(["resize", "crop", "pad"]))
def test_resized_image_is_square_and_equally_bright(data, depth, shape, size, rule):
    pixels = data.draw(arrays.arrays(depth, (*shape, 3), elements=st.integers(0, 255)))
    fit = resize_square(pixels, size, rule)
    assert (fit.shape, fit.dtype) == ((size, size, 3), depth)
    assert fit.max() <= pixels.max() + 1e-3
    assert fit.min() >= (0 if rule == "pad" else pixels.min() - 1e-3)


@many
@given(st.data(), st.integers(1, 9))
def test_file_array_equals_array_in_memory(data, count):
    array = np.arange(count * 6, dtype=np.uint16).reshape(count, 2, 3)
    index = data.draw(
        arrays.basic_indices((count,), allow_newaxis=False, allow_ellipsis=False)
        | arrays.integer_array_indices((count,))
    )
    with tempfile.TemporaryDirectory() as folder:
        array.tofile(Path(folder) / "pixels")
        np.testing.assert_array_equal(
            FileArray(Path(folder) / "pixels", array.shape, "uint16")[index], array[index]
        )


@few
@given(
    st.lists(names, min_size=2, max_size=4),
    st.lists(names, min_size=7, max_size=9, unique=True),
    st.booleans(),
)
def test_any_folder_gives_a_set_or_a_reason(classes, files, with_parts):
    numbers = itertools.count()
    with tempfile.TemporaryDirectory() as folder:
        for subset in ("train", "val", "test") if with_parts else ("",):
            for name in classes:
                (Path(folder) / subset / name).mkdir(parents=True, exist_ok=True)
                for file in files:
                    # copies in several classes would be refused
                    colour = (next(numbers), len(file), 0)
                    path = Path(folder) / subset / name / f"{file}.png"
                    Image.new("RGB", (4, 4), colour).save(path)
        try:
            images = load_dataset(DatasetConfig(data=folder, image_size=8)).images
        except UserError:
            return
        assert (
            len(images)
            == len(images.paths)
            == len(images.pixels)
            == len(set(classes)) * len(files) * (3 if with_parts else 1)
        )
        assert list(images.classes) == sorted({name.strip() or name for name in classes})
        assert all(
            images.classes[label] in path
            for label, path in zip(images.labels, images.paths, strict=True)
        )
