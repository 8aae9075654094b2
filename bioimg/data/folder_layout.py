"""What the folders of a data set mean: its layout, which is decided here and nowhere else.

A layout names the folders from the top down, as `--layout` does: `class`, `part/class`,
`patient/class`. Folders below its last level have no meaning. Without `--layout`, three layouts are
understood:

    part/class   all topmost folders are named like parts: train, dev, test, ...
    class/part   all folders on the second level are
    class        no folder is named like a part, and no names repeat below the topmost folders

All else is asked back, since a wrong guess trains a model to tell patients, or train from test.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bioimg.data.image_set import SUBSETS, TEST, TRAIN, VAL
from bioimg.errors import UserError
from bioimg.text import join_first

Steps = tuple[str, ...]
"""The steps of an image's path below the folder of its data set: ("train", "tumour", "1.png")."""

LAYOUT_HINT = (
    "Expected: DATA/CLASS/image or DATA/train|val|test/CLASS/image; --layout explains any other "
    "order, as in --layout patient/class."
)
PART, CLASS, ANY = "part", "class", "*"
PART_BY_WORD = {
    "train": TRAIN,
    "training": TRAIN,
    "val": VAL,
    "valid": VAL,
    "validation": VAL,
    "dev": VAL,
    "development": VAL,
    "eval": VAL,
    "evaluation": VAL,
    "test": TEST,
    "testing": TEST,
    "holdout": TEST,
}
FILLER_WORDS = ("set", "data", "dataset", "images", "image", "imgs", "img", "split", "part")
"""Words that change nothing about the part that a name means, as in test_set."""


def part_of_name(name: str) -> int | None:
    """Return the part (TRAIN, VAL or TEST) that a name means, if it means one.

    Case, digits and filler words don't matter: TrainingSet, test_images and train2017 are parts.
    """
    if not name.isascii():
        return None
    words = [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]
    text = "".join(word for word in words if word not in FILLER_WORDS)
    return PART_BY_WORD.get(text.removesuffix("set"))


@dataclass(frozen=True)
class FolderLayout:
    """The meaning of each level of folders from the top: `part`, `class`, `*` or a group's word."""

    levels: tuple[str, ...]

    def __str__(self) -> str:
        words = {PART: "train|val|test", CLASS: "CLASS"}
        return "/".join(words.get(level, level.upper()) for level in (*self.levels, "image"))

    @property
    def group_word(self) -> str | None:
        """The word for what groups are, such as `patient`; None if folders name no groups."""
        words = [level for level in self.levels if level not in (PART, CLASS, ANY)]
        return words[0] if words else None

    def step(self, steps: Steps, level: str) -> str:
        """Return the folder of an image on a level."""
        return steps[self.levels.index(level)]

    def covers(self, steps: Steps) -> bool:
        """Return True if an image lies deep enough to have all levels."""
        return len(steps) > len(self.levels)


def parse_layout(text: str) -> FolderLayout:
    """Return the layout that a user has written, such as `patient/class`.

    Raises:
        UserError: it doesn't name the classes once, and parts and groups at most once.
    """
    levels = tuple(word.strip().lower() for word in text.strip("/").split("/"))
    others = [level for level in levels if level not in (PART, CLASS, ANY)]
    are_words = all(level.isidentifier() for level in others)
    if levels.count(CLASS) != 1 or levels.count(PART) > 1 or len(others) > 1 or not are_words:
        raise UserError(
            f"the value of `layout` is {text!r}, but must name the folders from the top down: "
            "`class` once, `part` (train, val, test) and one word for groups, such as `patient`, "
            "at most once, and * for folders without meaning. For example: patient/class."
        )
    return FolderLayout(levels)


def decide_layout(
    folder: Path, images: Sequence[Steps], *, parents_are_groups: bool
) -> FolderLayout:
    """Decide what the folders of a data set mean.

    images:             the paths of all images in the folder.
    parents_are_groups: whether the user has said that the innermost folders name groups.

    Raises:
        UserError: the folders can be understood in several ways, or name no classes. The message
            says how to decide.
    """
    top_names = _names_on_level(images, 0)
    parts = [name for name in top_names if part_of_name(name) is not None]
    if top_names and len(parts) == len(top_names):
        layout = FolderLayout((PART, CLASS))
        _require_classes_in_parts(folder, images, parts)
    elif _all_lie_in_parts(images, 1):
        layout = FolderLayout((CLASS, PART))
    else:
        layout = FolderLayout((CLASS,))
    _require_no_other_parts(folder, images, layout)
    _require_no_repeated_names(folder, images, layout, parents_are_groups=parents_are_groups)
    return layout


def require_parts(folder: Path, images: Iterable[Steps], layout: FolderLayout) -> None:
    """Check that all folders on the level of parts are named like parts, each part by one name.

    Raises:
        UserError: lists the names.
    """
    names = sorted({layout.step(steps, PART) for steps in images})
    unknown = [name for name in names if part_of_name(name) is None]
    if unknown:
        raise UserError(
            f"the folder of `data`, {folder}, holds on its level of parts: {join_first(unknown)}; "
            "these must be called train, val or test. Rename or move them."
        )
    for part, part_name in enumerate(SUBSETS):
        same = [name for name in names if part_of_name(name) == part]
        if len(same) > 1:
            raise UserError(
                f"the folder of `data`, {folder}, holds several folders for {part_name}: "
                f"{join_first(same)}. Merge or rename them."
            )


def _names_on_level(images: Iterable[Steps], level: int) -> list[str]:
    return sorted({steps[level] for steps in images if len(steps) > level + 1})


def _all_lie_in_parts(images: Sequence[Steps], level: int) -> bool:
    """Return True if each image below the topmost folders is in a folder named like a part."""
    below_top = [steps for steps in images if len(steps) > 1]
    return bool(below_top) and all(
        len(steps) > level + 1 and part_of_name(steps[level]) is not None for steps in below_top
    )


def _require_classes_in_parts(folder: Path, images: Sequence[Steps], parts: Sequence[str]) -> None:
    with_classes = {steps[0] for steps in images if len(steps) > 2}
    without = [name for name in parts if name not in with_classes]
    if without:
        raise UserError(
            f"the folder of `data`, {folder}, holds no class folders in: {join_first(without)}. "
            "Images there have no labels: move these folders elsewhere, or sort the images into "
            f"class folders. {LAYOUT_HINT}"
        )


def _require_no_other_parts(folder: Path, images: Sequence[Steps], layout: FolderLayout) -> None:
    """Refuse a folder that is named like a part but lies where no part is expected."""
    part_level = layout.levels.index(PART) if PART in layout.levels else None
    strays: dict[str, None] = {}
    for steps in images:
        for level, name in enumerate(steps[:-1]):
            if level != part_level and part_of_name(name) is not None:
                strays["/".join(steps[: level + 1])] = None
    if not strays:
        return
    others = [name for name in _names_on_level(images, 0) if name not in strays]
    beside = f" beside {join_first(others, 4)}" if others else ""
    raise UserError(
        f"the folder of `data`, {folder}, holds folders that are named like parts of a data set, "
        f"{join_first(sorted(strays), 4)},{beside}. If all topmost folders are train, val or test, "
        "they are used as such: move the others elsewhere. If these are classes, say --layout "
        "class."
    )


def _require_no_repeated_names(
    folder: Path, images: Sequence[Steps], layout: FolderLayout, *, parents_are_groups: bool
) -> None:
    """Refuse folders whose names repeat below the classes: either level may be the classes."""
    first = len(layout.levels)
    class_level = layout.levels.index(CLASS)
    classes = _names_on_level(images, class_level)
    deepest = max((len(steps) for steps in images), default=0)
    for level in range(first, deepest - 1):
        parents_by_name = defaultdict(set)
        for steps in images:
            if len(steps) > level + 1:
                # the parts hold the same classes, which is no repetition
                parents = [step for at, step in enumerate(steps[:level]) if at >= class_level]
                parents_by_name[steps[level]].add(tuple(parents))
        repeated = [name for name, parents in parents_by_name.items() if len(parents) > 1]
        names = sorted(parents_by_name)
        if len(names) < 2 or 2 * len(repeated) < len(names):
            continue
        if parents_are_groups and len(names) > len(classes):
            continue
        raise _repeated_names_error(folder, layout, classes, names, level)


def _repeated_names_error(
    folder: Path, layout: FolderLayout, classes: Sequence[str], names: Sequence[str], level: int
) -> UserError:
    between = [ANY] * (level - len(layout.levels))
    classes_below = [PART if word == PART else ANY for word in layout.levels] + between
    innermost = max(at for at, word in enumerate(classes_below) if word == ANY)
    classes_below[innermost] = "patient"
    below, above = join_first(names, 3), join_first(classes, 3)
    return UserError(
        f"the folder of `data`, {folder}, holds folders of the same names ({below}) inside several "
        f"others ({above}), so the classes can be either. Choose: --layout "
        f"{'/'.join((*classes_below, CLASS))} if the classes are {below}; --layout "
        f"{'/'.join((*layout.levels, *between, 'patient'))} if they are {above}, and {below} are "
        f"patients or slides; --layout {'/'.join(layout.levels)} if {below} mean nothing."
    )
