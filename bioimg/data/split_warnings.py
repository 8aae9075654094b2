"""What makes results on images and their split too good or uncertain, in sentences."""

from collections.abc import Iterator

from bioimg.config import MIN_TEST_GROUPS, SplitConfig
from bioimg.data.copies import find_contradictions
from bioimg.data.image_groups import count_effective_groups
from bioimg.data.image_set import Dataset, ImageSet
from bioimg.data.splitting import has_given_parts, suggest_folds


def image_warnings(images: ImageSet) -> Iterator[str]:
    """Yield what is wrong with images, however they are split."""
    contradictions = find_contradictions(images)
    if contradictions:
        have = "image has" if len(contradictions) == 1 else "images have"
        yield (
            f"{len(contradictions)} {have} several labels, since copies are in several classes: no "
            "recipe is right on all of these. `bioimg data` lists them."
        )
    if images.unreadable_skipped:
        were = "image was" if images.unreadable_skipped == 1 else "images were"
        yield f"{images.unreadable_skipped} unreadable {were} left out."


def split_warnings(dataset: Dataset, config: SplitConfig) -> Iterator[str]:
    """Yield what makes results on this split too good or uncertain."""
    images, split = dataset.images, dataset.split
    if split.leaks_groups:
        yield (
            f"images of one group are in more than one subset, since `split` is {config.split!r}: "
            "results are too good for new groups. Use --split grouped."
        )
    yield from _few_groups_warnings(dataset, config)
    if has_given_parts(images) and config.split != "folder":
        yield (
            f"the parts that `data` gives are mixed, since `split` is {config.split!r}: results "
            "can't be compared with others on its test images. Use --split folder."
        )
    held_out = f"of the {len(split.val) + len(split.test)} validation and test images"
    if split.duplicate_count:
        have = "has" if split.duplicate_count == 1 else "have"
        yield (
            f"{split.duplicate_count} {held_out} {have} an exact copy in another subset: results "
            f"are too good. {_advise_on_copies(images)}"
        )
    if split.look_alike_count:
        looks = "looks" if split.look_alike_count == 1 else "look"
        yield (
            f"{split.look_alike_count} {held_out} {looks} like one in another subset, turned or "
            f"changed: results are too good. {_advise_on_copies(images)}"
        )
    if split.leaked_pattern and images.likely_groups is not None:
        count = len(set(images.likely_groups.names))
        yield (
            f"names suggest {count} groups, and images of one are in more than one subset: if "
            "these are slides or patients, results are too good for new ones. Use --split grouped "
            f"--group-pattern '{split.leaked_pattern}'; `bioimg data` shows what is in them."
        )


def _few_groups_warnings(dataset: Dataset, config: SplitConfig) -> Iterator[str]:
    groups = dataset.images.groups
    if groups is None:
        return
    # with folds, each image is tested once
    tested = groups if config.folds else [groups[image] for image in dataset.split.test]
    effective_count = count_effective_groups(tested)
    if effective_count >= MIN_TEST_GROUPS:
        return
    text = (
        f"the test images come from few groups ({len(set(tested))}, worth {effective_count:.1f} of "
        f"equal size): with fewer than {MIN_TEST_GROUPS}, little can be said about new groups."
    )
    folds = None
    if config.split == "grouped" and not config.folds:
        folds = suggest_folds(dataset.images)
    if folds:
        text += f" To test all {len(set(groups))} groups in turn: --split grouped --folds {folds}."
    yield text


def _advise_on_copies(images: ImageSet) -> str:
    if images.groups is None:
        return (
            "Remove copies, which `bioimg data` lists, or keep them together: --split grouped "
            "--group-pattern copies."
        )
    return "Remove copies; `bioimg data` lists them."
