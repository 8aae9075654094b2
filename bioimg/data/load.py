"""Load the images of trials.

What can be checked without decoding an image is checked first, by `list_datasets`.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from bioimg.config import DatasetConfig, SplitConfig, TrialConfig
from bioimg.data.copies import require_one_label_each
from bioimg.data.file_array import PixelArray
from bioimg.data.image_groups import COPIES, group_copies
from bioimg.data.image_index import ImageIndex
from bioimg.data.image_set import TRAIN, Dataset, ImageSet, ScalingLimits
from bioimg.data.intensity_scaling import scale_to_8bit
from bioimg.data.look_alikes import read_look_alikes
from bioimg.data.pixel_cache import DecodedSet, DecodeOptions, ProgressCallback, read_images
from bioimg.data.sources import list_images
from bioimg.data.splitting import assign_subsets, describe_split, resolve_split


@dataclass(frozen=True, kw_only=True, eq=False)
class ListedDataset:
    """The images of a trial and their split, before any image is decoded."""

    config: DatasetConfig
    split_config: SplitConfig
    """How the images are split: never `auto`."""
    options: DecodeOptions
    index: ImageIndex
    subsets: np.ndarray
    """[N] of TRAIN, VAL, TEST."""

    @property
    def train_count(self) -> int:
        """Number of training images."""
        return int(np.count_nonzero(self.subsets == TRAIN))


def list_datasets(trials: Iterable[TrialConfig]) -> dict[TrialConfig, ListedDataset]:
    """List and split the images of each trial, without decoding any.

    Each set is listed once and each split is computed once, however many trials use them.

    Raises:
        UserError: something is wrong with the folder or table, its labels, the choice of channels
            or the split.
    """
    indices: dict[DatasetConfig, ImageIndex] = {}
    listed: dict[tuple[DatasetConfig, SplitConfig], ListedDataset] = {}
    listed_by_trial = {}
    for trial in trials:
        config = trial.dataset_config
        if config not in indices:
            indices[config] = list_images(config)
        key = (config, trial.split_config)
        if key not in listed:
            listed[key] = _split_index(indices[config], *key)
        listed_by_trial[trial] = listed[key]
    return listed_by_trial


def load_datasets(
    listed_by_trial: Mapping[TrialConfig, ListedDataset], progress: ProgressCallback | None = None
) -> dict[TrialConfig, Dataset]:
    """Load the images that were listed for each trial.

    Trials with the same pixels share one `ImageSet`. Those that also have the same split share one
    `Dataset`. Images that were decoded before are taken from the cache (see
    `bioimg.storage.disk_cache`) until a file changes.

    Raises:
        UserError: images can't be read or have several labels (lists them), or the readable ones
            can't be split.
    """
    decoded_sets: dict[DatasetConfig, DecodedSet] = {}
    image_sets: dict[DatasetConfig, ImageSet] = {}
    datasets: dict[ListedDataset, Dataset] = {}
    for listed in dict.fromkeys(listed_by_trial.values()):
        config = listed.config
        if config not in decoded_sets:
            decoded_sets[config] = _decode(listed, progress)
        datasets[listed] = _make_dataset(listed, decoded_sets[config], image_sets.get(config))
        image_sets[config] = datasets[listed].images
    return {trial: datasets[listed] for trial, listed in listed_by_trial.items()}


def load_dataset(
    config: DatasetConfig,
    split_config: SplitConfig = SplitConfig(),  # noqa: B008  (immutable)
    progress: ProgressCallback | None = None,
) -> Dataset:
    """Load one data set.

    Raises:
        UserError: as `list_datasets` and `load_datasets`.
    """
    listed = _split_index(list_images(config), config, split_config)
    return _make_dataset(listed, _decode(listed, progress))


def make_image_set(
    index: ImageIndex,
    decoded: DecodedSet,
    pixels: PixelArray,
    limits: ScalingLimits | None,
    look_alikes: np.ndarray | None = None,
) -> ImageSet:
    """Join the readable images of an index with their 8-bit pixels."""
    infos = decoded.readable_infos
    return ImageSet(
        name=index.name,
        pixels=pixels,
        labels=index.labels,
        classes=index.classes,
        paths=index.paths,
        groups=index.groups,
        likely_groups=index.likely_groups,
        subsets=index.subsets,
        look_alikes=look_alikes,
        ignored_count=len(index.possible_images),
        digests=tuple(info.digest for info in infos),
        scaling_limits=limits,
        synthetic=index.synthetic,
        unreadable_skipped=len(decoded.image_infos) - len(infos),
    )


def _split_index(
    index: ImageIndex, config: DatasetConfig, split_config: SplitConfig
) -> ListedDataset:
    split_config = dataclasses.replace(split_config, split=resolve_split(index, split_config))
    subsets = assign_subsets(index, split_config)
    return ListedDataset(
        config=config,
        split_config=split_config,
        options=DecodeOptions.from_config(config),
        index=index,
        subsets=subsets,
    )


def _decode(listed: ListedDataset, progress: ProgressCallback | None) -> DecodedSet:
    return read_images(
        listed.index,
        listed.options,
        skip_unreadable=listed.config.skip_unreadable,
        progress=progress,
    )


def _make_dataset(
    listed: ListedDataset, decoded: DecodedSet, images: ImageSet | None = None
) -> Dataset:
    """Scale decoded images and describe their split.

    `images` are the same ones as loaded for another split. They are shared if possible.
    """
    index, subsets = listed.index, listed.subsets
    if len(decoded.readable_indices) < len(index):
        index = index.select(decoded.readable_indices)
        subsets = assign_subsets(index, listed.split_config)
    look_alikes = read_look_alikes(decoded)
    if listed.config.group_pattern == COPIES:
        index = dataclasses.replace(index, groups=group_copies(index.paths, look_alikes))
        subsets = assign_subsets(index, listed.split_config)
    # pixels of more than 8 bits depend on the split, since training images determine the scaling
    if images is None or images.scaling_limits is not None:
        training_rows = np.flatnonzero(subsets == TRAIN)
        pixels, limits = scale_to_8bit(decoded, listed.config.scaling, training_rows)
        images = make_image_set(index, decoded, pixels, limits, look_alikes)
        # nobody can remove images from a published .npz, so of these `image_warnings` tells
        if index.npz_file is None:
            require_one_label_each(images.name, images.digests, images.paths, images.labels)
    return Dataset(images=images, split=describe_split(images, subsets))
