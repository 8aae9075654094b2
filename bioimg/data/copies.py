"""Name the copies in a set of images: exact ones, those that look alike, those with two labels."""

from collections.abc import Hashable, Iterable, Sequence

import numpy as np

from bioimg.data.image_set import ImageSet
from bioimg.errors import UserError
from bioimg.text import join_first

SHOWN_COPIES = 3


def find_copies(images: ImageSet) -> list[list[str]]:
    """Return sets of paths whose decoded pixels are the same."""
    return [paths for paths in _collect_paths(images.digests, images.paths) if len(paths) > 1]


def find_contradictions(images: ImageSet) -> list[list[str]]:
    """Return the sets of copies that have several labels."""
    return _find_contradictions(images.digests, images.paths, images.labels)


def require_one_label_each(
    name: str, digests: Sequence[str], paths: Sequence[str], labels: np.ndarray
) -> None:
    """Refuse copies in several classes. No recipe is right on all of them.

    Raises:
        UserError: there are some; it names the set and the first ones.
    """
    contradictions = _find_contradictions(digests, paths, labels)
    if contradictions:
        have = "image has" if len(contradictions) == 1 else "images have"
        shown = join_first(map(join_copies, contradictions), 3)
        raise UserError(
            f"{len(contradictions)} {have} several labels in {name!r}, since copies are in "
            f"several classes: {shown}. Decide on one class for each and remove its other files or "
            "rows; `bioimg data --json` lists them all."
        )


def find_look_alikes(images: ImageSet) -> list[list[str]]:
    """Return sets of paths of images that look the same, one path of exact copies."""
    if images.look_alikes is None:
        return []
    first_rows = {digest: row for row, digest in reversed(list(enumerate(images.digests)))}
    rows = sorted(first_rows.values())
    numbers = images.look_alikes[rows].tolist()
    paths = [images.paths[row] for row in rows]
    return [same for same in _collect_paths(numbers, paths) if len(same) > 1]


def join_copies(paths: Sequence[str]) -> str:
    """Return the first few paths of a set of copies; of more, also their number."""
    text = " = ".join(paths[:SHOWN_COPIES])
    if len(paths) > SHOWN_COPIES:
        text += f" = ... ({len(paths)} in all)"
    return text


def _find_contradictions(
    digests: Sequence[str], paths: Sequence[str], labels: np.ndarray
) -> list[list[str]]:
    label_by_path = dict(zip(paths, labels.tolist(), strict=True))
    contradictions = []
    for same in _collect_paths(digests, paths):
        if len({label_by_path[path] for path in same}) > 1:
            contradictions.append(same)
    return contradictions


def _collect_paths(keys: Iterable[Hashable], paths: Sequence[str]) -> list[list[str]]:
    """Return the paths that have the same key, in order of first use."""
    paths_by_key: dict[Hashable, list[str]] = {}
    for key, path in zip(keys, paths, strict=True):
        paths_by_key.setdefault(key, []).append(path)
    return list(paths_by_key.values())
