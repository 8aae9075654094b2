"""images.parquet: which image was in which subset, for each way of splitting; and how the images of two runs differ."""

from collections.abc import Iterator, Sequence

import pandas as pd
import pyarrow as pa

SplitKey = tuple[object, ...]
SPLIT_COLUMNS = ["split", "folds", "fold", "group_pattern"]
COMPARED_COLUMNS = ["digest", "label", "subset", "group", "image"]
MAX_NAMED_IMAGES = 3
"""The most images named for each kind of difference."""
MERGE_SIDES = (("left_only", "image_before"), ("right_only", "image"))


def image_differences(
    before: pa.Table, now: pa.Table, classes: Sequence[str], classes_now: Sequence[str]
) -> list[str]:
    """How the images of two runs differ, such as "2 gone (a.png, b.png)"; empty if the new run can join the earlier one.

    An image is identified by its digest, not its name. Subsets, names and groups are compared for the ways of splitting that both
    runs use; names and groups matter since the statistics pair predictions by them.
    """
    old, new = _rows_by_split(before, classes), _rows_by_split(now, classes_now)
    pairs: list[tuple[pd.DataFrame, pd.DataFrame, SplitKey | None]] = [
        (old[way], new[way], way) for way in new if way in old
    ]
    if (
        not pairs and old and new
    ):  # no common way of splitting, so only the contents of any two are compared
        pairs = [(next(iter(old.values())), next(iter(new.values())), None)]
    for earlier, current, way in pairs:
        if _have_equal_rows(earlier, current):
            continue
        found = list(_content_differences(earlier, current)) or list(
            _assignment_differences(earlier, current, way)
        )
        if found:
            return found
    return []


def merge_assignments(before: pa.Table, now: pa.Table) -> pa.Table:
    """The new rows, and the earlier rows of other ways of splitting."""
    named = set(_split_keys(now))
    return pa.concat_tables(
        [
            before.filter(pa.array([way not in named for way in _split_keys(before)], pa.bool_())),
            now,
        ]
    )


def _split_keys(table: pa.Table) -> Iterator[SplitKey]:
    return zip(*(table[name].to_pylist() for name in SPLIT_COLUMNS), strict=True)


def _rows_by_split(table: pa.Table, classes: Sequence[str]) -> dict[SplitKey, pd.DataFrame]:
    rows = table.to_pandas().fillna({"group_pattern": "", "group": ""})
    rows["label"] = [classes[label] for label in rows["label"]]
    return dict(iter(rows.groupby(SPLIT_COLUMNS, sort=False)))  # type: ignore[arg-type]


def _content_differences(old: pd.DataFrame, new: pd.DataFrame) -> Iterator[str]:
    pairs = _changed_images(old, new, "label")
    gone, added = (set(pairs.loc[pairs["_merge"] == side, name]) for side, name in MERGE_SIDES)
    for names, what in (
        (gone & added, "with other pixels"),
        (added - gone, "new"),
        (gone - added, "gone"),
    ):
        if names:
            yield f"{len(names)} {what} ({_join_examples(sorted(names))})"
    yield from _describe_changes(pairs[pairs["_merge"] == "both"], "label", "with another label")


def _have_equal_rows(old: pd.DataFrame, new: pd.DataFrame) -> bool:
    return len(old) == len(new) and bool(
        (old[COMPARED_COLUMNS].to_numpy() == new[COMPARED_COLUMNS].to_numpy()).all()
    )


def _assignment_differences(
    old: pd.DataFrame, new: pd.DataFrame, way: SplitKey | None
) -> Iterator[str]:
    if way is None:
        return
    named = " ".join(
        f"{name}={value}" for name, value in zip(SPLIT_COLUMNS, way, strict=True) if value
    )
    for column, what in (
        ("subset", f"in another subset with {named}"),
        ("group", "in another group"),
        ("image", "under another name"),
    ):
        yield from _describe_changes(_changed_images(old, new, column), column, what)


def _changed_images(old: pd.DataFrame, new: pd.DataFrame, by: str) -> pd.DataFrame:
    """Images whose value of `by` has changed, side by side. Exact copies with the same value count as the same image."""
    alike = ["digest", by]
    a, b = (
        pd.MultiIndex.from_frame(rows[alike].assign(copy=rows.groupby(alike).cumcount()))
        for rows in (old, new)
    )
    rest = (old[~a.isin(b)], new[~b.isin(a)])
    sides = [rows.assign(copy=rows.groupby("digest").cumcount()) for rows in rest]
    return sides[0].merge(
        sides[1], on=["digest", "copy"], how="outer", suffixes=("_before", ""), indicator=True
    )


def _describe_changes(pairs: pd.DataFrame, column: str, what: str) -> Iterator[str]:
    pairs = pairs.sort_values("image")
    now = ["" if column == "image" else f", is {value or 'none'}" for value in pairs[column]]
    then = [value or "none" for value in pairs[f"{column}_before"]]
    if len(pairs):
        said = [
            f"{image} was {value}{new}"
            for image, value, new in zip(pairs["image"], then, now, strict=True)
        ]
        yield f"{len(pairs)} {what} ({_join_examples(said, '; ')})"


def _join_examples(texts: Sequence[str], separator: str = ", ") -> str:
    return separator.join(
        [*texts[:MAX_NAMED_IMAGES], *(["..."] if len(texts) > MAX_NAMED_IMAGES else [])]
    )
