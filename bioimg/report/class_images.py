"""Count the images of each class in each subset, and their groups."""

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from bioimg.experiment import SPLIT_FIELDS
from bioimg.report.formatting import format_count
from bioimg.report.translation import column_header, translate
from bioimg.results.result_store import Results

SUBSETS = ("train", "val", "test")


@dataclass(frozen=True)
class TextTable:
    """A table of texts."""

    caption: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, eq=False)
class ClassImages:
    """The images that trials used, by class and, if all used one split, by subset.

    classes: names of the classes.
    subsets: train, val and test; none with several splits, such as folds.
    images: the rows of images.parquet of one split, which has all images; none if unknown.
    """

    classes: tuple[str, ...]
    subsets: tuple[str, ...]
    images: pd.DataFrame

    def counts(self) -> list[tuple[str, list[int]]]:
        """Return each class with its number of images in each subset, or else in all."""
        counts = []
        for label, name in enumerate(self.classes):
            of_class = self.images[self.images["label"].eq(label)]
            parts = [of_class["subset"].eq(subset).sum() for subset in self.subsets]
            counts.append((name, list(map(int, parts)) or [len(of_class)]))
        return counts


def find_class_images(results: Results, trials: pd.DataFrame) -> ClassImages:
    """Find the images that these trials used."""
    fields = list(SPLIT_FIELDS)
    splits = trials[fields].drop_duplicates()
    images = results.images
    if len(images) and len(splits):
        # null in both tables means that no pattern was given
        first = splits.head(1).fillna({"group_pattern": ""})
        images = images.fillna({"group_pattern": ""}).merge(first, on=fields)
    subsets = SUBSETS if len(splits) == 1 else ()
    return ClassImages(tuple(results.manifest["data"]["classes"]), subsets, images)


def build_class_table(results: Results, trials: pd.DataFrame, lang: str) -> TextTable | None:
    """Build the table of images and groups by class and subset; None if they are unknown."""
    known = find_class_images(results, trials)
    images = known.images
    if images.empty:
        return None
    headers = [column_header("class", lang)]
    headers += [translate(f"class_images.{subset}", lang) for subset in (*known.subsets, "all")]
    rows = []
    for label, name in enumerate(known.classes):
        rows.append((name, *_cells(images[images["label"].eq(label)], known.subsets)))
    rows.append((translate("class_images.all_classes", lang), *_cells(images, known.subsets)))
    code = "caption_groups" if images["group"].notna().any() else "caption"
    return TextTable(translate(f"class_images.{code}", lang), tuple(headers), tuple(rows))


def _cells(images: pd.DataFrame, subsets: Iterable[str]) -> list[str]:
    """Return the number of images in each subset and in all, with that of their groups."""
    parts = [images[images["subset"].eq(subset)] for subset in subsets]
    cells = []
    for part in (*parts, images):
        text = format_count(len(part))
        if images["group"].notna().any():
            text = f"{text} ({format_count(part['group'].nunique())})"
        cells.append(text)
    return cells
