"""Read labelled images of another source as the images of a trained model were read."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bioimg.config import DatasetConfig
from bioimg.data.copies import require_one_label_each
from bioimg.data.file_array import JoinedRows
from bioimg.data.image_groups import COPIES
from bioimg.data.image_index import ImageIndex
from bioimg.data.image_set import ImageSet, ScalingLimits
from bioimg.data.inference_images import require_same_depth
from bioimg.data.intensity_scaling import apply_limits, clipped_shares
from bioimg.data.load import make_image_set
from bioimg.data.look_alikes import number_look_alikes
from bioimg.data.pixel_cache import DecodedSet, DecodeOptions, ProgressCallback, read_images
from bioimg.data.sources import list_images
from bioimg.errors import UserError, unknown_value_error
from bioimg.text import join_first


@dataclass(frozen=True, eq=False)
class ExternalImages:
    """Labelled images that were read, before their brightness is scaled for a model."""

    index: ImageIndex
    """The images that can be read; their labels are classes of the model."""
    decoded: DecodedSet
    rows: np.ndarray
    """int64 [N], the images that are used, of those that `decoded` holds."""
    config: DatasetConfig

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def digests(self) -> list[str]:
        """N content hashes of the images as decoded."""
        infos = self.decoded.readable_infos
        return [infos[row].digest for row in self.rows]

    @property
    def used(self) -> ImageIndex:
        """Paths, labels and groups of the images that are used."""
        return self.index.select(self.rows)

    @property
    def fingerprint(self) -> str:
        """A hash (16 hex digits) of the images' names, pixels, classes and groups."""
        used = self.used
        classes = [used.classes[label] for label in used.labels]
        groups = used.groups or [""] * len(self)
        rows = sorted(zip(used.paths, self.digests, classes, groups, strict=True))
        return hashlib.sha256(repr(rows).encode()).hexdigest()[:16]

    def leave_out(self, is_left_out: np.ndarray) -> "ExternalImages":
        """Return all images but some.

        is_left_out: bool [N].
        """
        return dataclasses.replace(self, rows=self.rows[~is_left_out])

    def require_same_depth(self, limits: ScalingLimits | None) -> None:
        """Refuse these images for a model that was trained on others; see `scale`."""
        require_same_depth(self.config.data, self.decoded, limits, field="data")

    def scale(self, limits: ScalingLimits | None) -> ImageSet:
        """Return the images as a model sees them.

        limits: `ImageSet.scaling_limits` of the images that the model was trained on.

        Raises:
            UserError: they have another depth than those.
        """
        self.require_same_depth(limits)
        pixels = self.decoded.pixels if limits is None else apply_limits(self.decoded, limits)
        images = make_image_set(self.index, self.decoded, pixels, limits)
        return select_images(images, self.rows)

    def clipped_share(self, limits: ScalingLimits | None) -> float | None:
        """Return the share of all values that `scale` clips; None of images of 8 bits."""
        if limits is None:
            return None
        return float(clipped_shares(self.decoded.pixels, limits)[self.rows].mean())


def list_external_images(
    config: DatasetConfig, classes: Sequence[str], class_map: Mapping[str, str]
) -> ImageIndex:
    """List all labelled images of a folder, table or file, with labels that index `classes`.

    Raises:
        UserError: as `load_external_images`, as far as it goes without decoding an image.
    """
    if config.group_pattern == COPIES:
        raise UserError(
            "the value of `group_pattern` is 'copies', but must tell patients or slides of these "
            "images apart. Leave it out if they aren't known."
        )
    index = _rename_classes(list_images(config), classes, class_map)
    return dataclasses.replace(index, subsets=None)


def load_external_images(
    config: DatasetConfig,
    classes: Sequence[str],
    class_map: Mapping[str, str],
    progress: ProgressCallback | None = None,
) -> ExternalImages:
    """Load all labelled images of a folder, table or file, whatever part they are given in.

    Args:
        config: where the images are, and how they become pixels: as those of the model.
        classes: the classes of the model.
        class_map: the class of the model by the name of another class.
        progress: called with the number of images that were read, and that of all.

    Raises:
        UserError: something is wrong with the images or their labels, or a class is unknown.
    """
    index = list_external_images(config, classes, class_map)
    decoded = read_images(
        index,
        DecodeOptions.from_config(config),
        skip_unreadable=config.skip_unreadable,
        progress=progress,
    )
    readable = index.select(decoded.readable_indices)
    images = ExternalImages(readable, decoded, np.arange(len(readable)), config)
    require_one_label_each(readable.name, images.digests, readable.paths, readable.labels)
    return images


def find_look_alikes_of(
    images: ExternalImages, known: DecodedSet, known_rows: np.ndarray
) -> np.ndarray:
    """Return bool [N], which images look like a known one but aren't exact copies of any.

    known_rows: which of the known images count.
    """
    infos = known.readable_infos
    known_digests = [infos[row].digest for row in known_rows]
    pixels = JoinedRows((known.pixels, known_rows), (images.decoded.pixels, images.rows))
    numbers = number_look_alikes(pixels, [*known_digests, *images.digests])
    known_numbers, own_numbers = np.split(numbers, [len(known_rows)])
    is_copy = np.isin(images.digests, known_digests)
    return np.isin(own_numbers, known_numbers) & ~is_copy


def _rename_classes(
    index: ImageIndex, classes: Sequence[str], class_map: Mapping[str, str]
) -> ImageIndex:
    """Return the images with labels that index the classes of the model."""
    for name, target in class_map.items():
        if name not in index.classes:
            raise unknown_value_error("map", name, index.classes)
        if target not in classes:
            raise unknown_value_error("map", target, classes)
    renamed = [class_map.get(name, name) for name in index.classes]
    unknown = [name for name in renamed if name not in classes]
    if unknown:
        raise UserError(
            f"the classes of {index.name!r} must be those of the experiment "
            f"({join_first(classes)}), but it has: {join_first(unknown)}. Say which class of the "
            f"experiment each is, as in --map '{unknown[0]}={classes[0]}', or leave its images out."
        )
    positions = np.array([list(classes).index(name) for name in renamed])
    return dataclasses.replace(index, classes=tuple(classes), labels=positions[index.labels])


def select_images(images: ImageSet, rows: np.ndarray) -> ImageSet:
    if len(rows) == len(images):
        return images
    return dataclasses.replace(
        images,
        pixels=JoinedRows((images.pixels, rows)),
        labels=images.labels[rows],
        paths=tuple(images.paths[row] for row in rows),
        groups=images.groups and tuple(images.groups[row] for row in rows),
        digests=tuple(images.digests[row] for row in rows),
        likely_groups=None,
    )
