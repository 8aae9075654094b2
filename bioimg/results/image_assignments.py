"""images.parquet: the subset of each image in each split, and how the images of two runs differ."""

from collections.abc import Iterator, Sequence

import pandas as pd
import pyarrow as pa

from bioimg.experiment import SPLIT_FIELDS

SplitKey = tuple[object, ...]
"""The values of `SPLIT_FIELDS`."""

COMPARED_COLUMNS = ["digest", "label", "subset", "group", "image"]
MAX_NAMED_IMAGES = 3
"""The most images named for each kind of difference."""


def find_image_differences(
    before: pa.Table, after: pa.Table, classes_before: Sequence[str], classes_after: Sequence[str]
) -> list[str]:
    """Describe how the images of two runs differ, such as "2 gone (a.png, b.png)".

    No description means that the new run can join the earlier one. An image is identified by its
    digest, not its name. Subsets, names and groups are compared for the splits that both runs use.
    Names and groups matter, since the statistics pair predictions by them.
    """
    rows_before = _rows_by_split(before, classes_before)
    rows_after = _rows_by_split(after, classes_after)
    common = [split for split in rows_after if split in rows_before]
    for split in common:
        differences = _find_row_differences(rows_before[split], rows_after[split], split)
        if differences:
            return differences
    if common or not rows_before or not rows_after:
        return []
    # every split holds all images, so the contents of any two can be compared
    first_before = next(iter(rows_before.values()))
    first_after = next(iter(rows_after.values()))
    return list(_content_differences(first_before, first_after))


def merge_assignments(before: pa.Table, after: pa.Table) -> pa.Table:
    """Return the new rows, and the earlier rows of other splits before them."""
    replaced = set(_split_keys(after))
    is_kept = [split not in replaced for split in _split_keys(before)]
    kept = before.filter(pa.array(is_kept, pa.bool_()))
    return pa.concat_tables([kept, after])


def _split_keys(table: pa.Table) -> Iterator[SplitKey]:
    columns = [table[name].to_pylist() for name in SPLIT_FIELDS]
    return zip(*columns, strict=True)


def _rows_by_split(table: pa.Table, classes: Sequence[str]) -> dict[SplitKey, pd.DataFrame]:
    rows = table.to_pandas().fillna({"group_pattern": "", "group": ""})
    rows["label"] = [classes[label] for label in rows["label"]]
    rows_by_split = rows.groupby(list(SPLIT_FIELDS), sort=False)
    return dict(iter(rows_by_split))  # type: ignore[arg-type]


def _find_row_differences(before: pd.DataFrame, after: pd.DataFrame, split: SplitKey) -> list[str]:
    if _have_equal_rows(before, after):
        return []
    # other contents explain other subsets and names, which would only repeat them
    contents = list(_content_differences(before, after))
    return contents or list(_assignment_differences(before, after, split))


def _have_equal_rows(before: pd.DataFrame, after: pd.DataFrame) -> bool:
    if len(before) != len(after):
        return False
    equal = before[COMPARED_COLUMNS].to_numpy() == after[COMPARED_COLUMNS].to_numpy()
    return bool(equal.all())


def _content_differences(before: pd.DataFrame, after: pd.DataFrame) -> Iterator[str]:
    pairs = _pair_changed_images(before, after, "label")
    is_gone = pairs["_merge"].eq("left_only")
    is_added = pairs["_merge"].eq("right_only")
    gone = set(pairs.loc[is_gone, "image_before"])
    added = set(pairs.loc[is_added, "image"])
    yield from _describe_images(gone & added, "with other pixels")
    yield from _describe_images(added - gone, "new")
    yield from _describe_images(gone - added, "gone")
    relabelled = pairs[pairs["_merge"].eq("both")]
    yield from _describe_changes(relabelled, "label", "with another label")


def _assignment_differences(
    before: pd.DataFrame, after: pd.DataFrame, split: SplitKey
) -> Iterator[str]:
    named_values = zip(SPLIT_FIELDS, split, strict=True)
    settings = [f"{name}={value}" for name, value in named_values if value]
    for column, change in (
        ("subset", f"in another subset with {' '.join(settings)}"),
        ("group", "in another group"),
        ("image", "under another name"),
    ):
        pairs = _pair_changed_images(before, after, column)
        yield from _describe_changes(pairs, column, change)


def _pair_changed_images(before: pd.DataFrame, after: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the images whose value of a column has changed, earlier and new row side by side.

    Exact copies of an image share a digest, so rows are matched by digest and value first: if the
    same copies exist in both runs, none has changed, whatever their order.
    """
    copies_before = _identify_copies(before, column)
    copies_after = _identify_copies(after, column)
    changed_before = before[~copies_before.isin(copies_after)]
    changed_after = after[~copies_after.isin(copies_before)]
    # what remains is paired by digest alone, copy by copy
    return _number_copies(changed_before, ["digest"]).merge(
        _number_copies(changed_after, ["digest"]),
        on=["digest", "copy"],
        how="outer",
        suffixes=("_before", ""),
        indicator=True,
    )


def _identify_copies(rows: pd.DataFrame, column: str) -> pd.MultiIndex:
    """Return (digest, value, number among the rows with both) of each row."""
    identity = ["digest", column]
    return pd.MultiIndex.from_frame(_number_copies(rows[identity], identity))


def _number_copies(rows: pd.DataFrame, identity: list[str]) -> pd.DataFrame:
    """Add the column `copy`, the number of each row among those with the same identity."""
    return rows.assign(copy=rows.groupby(identity).cumcount())


def _describe_images(names: set[str], state: str) -> Iterator[str]:
    if names:
        examples = _join_examples(sorted(names), ", ")
        yield f"{len(names)} {state} ({examples})"


def _describe_changes(pairs: pd.DataFrame, column: str, change: str) -> Iterator[str]:
    if pairs.empty:
        return
    texts = []
    for row in pairs.sort_values("image").to_dict("records"):
        value_before = row[f"{column}_before"] or "none"
        text = f"{row['image']} was {value_before}"
        # the image's own name is its new value
        if column != "image":
            value = row[column] or "none"
            text += f", is {value}"
        texts.append(text)
    yield f"{len(texts)} {change} ({_join_examples(texts, '; ')})"


def _join_examples(texts: Sequence[str], separator: str) -> str:
    examples = list(texts[:MAX_NAMED_IMAGES])
    if len(texts) > MAX_NAMED_IMAGES:
        examples.append("...")
    return separator.join(examples)
