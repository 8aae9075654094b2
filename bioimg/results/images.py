"""images.parquet: which image was in which part, for each way of splitting; and how the images of two runs differ."""

from collections.abc import Iterator, Sequence

import pandas as pd
import pyarrow as pa

Way = tuple[object, ...]
WAY = ["split", "folds", "fold", "group_pattern"]
TOLD = ["digest", "label", "part", "group", "image"]
MOST = 3
"""The most images named for each kind of difference."""
SIDES = (("left_only", "image_before"), ("right_only", "image"))


def differences(before: pa.Table, now: pa.Table, classes: Sequence[str], classes_now: Sequence[str]) -> list[str]:
    """How the images of two runs differ, such as "2 gone (a.png, b.png)"; empty if the new run can join the earlier one.

    An image is identified by its digest, not its name. Parts, names and groups are compared for the ways of splitting that both
    runs use; names and groups matter since the statistics pair predictions by them.
    """
    old, new = _by_way(before, classes), _by_way(now, classes_now)
    pairs: list[tuple[pd.DataFrame, pd.DataFrame, Way | None]] = [(old[way], new[way], way) for way in new if way in old]
    if not pairs and old and new:  # no common way of splitting, so only the contents of any two are compared
        pairs = [(next(iter(old.values())), next(iter(new.values())), None)]
    for earlier, current, way in pairs:
        if _same(earlier, current):
            continue
        found = list(_contents(earlier, current)) or list(_moves(earlier, current, way))
        if found:
            return found
    return []


def joined(before: pa.Table, now: pa.Table) -> pa.Table:
    """The new rows, and the earlier rows of other ways of splitting."""
    named = set(_ways(now))
    return pa.concat_tables([before.filter(pa.array([way not in named for way in _ways(before)], pa.bool_())), now])


def _ways(table: pa.Table) -> Iterator[Way]:
    return zip(*(table[name].to_pylist() for name in WAY), strict=True)


def _by_way(table: pa.Table, classes: Sequence[str]) -> dict[Way, pd.DataFrame]:
    rows = table.to_pandas().fillna({"group_pattern": "", "group": ""})
    rows["label"] = [classes[label] for label in rows["label"]]
    return dict(iter(rows.groupby(WAY, sort=False)))  # type: ignore[arg-type]


def _contents(old: pd.DataFrame, new: pd.DataFrame) -> Iterator[str]:
    pairs = _changed(old, new, "label")
    gone, added = (set(pairs.loc[pairs["_merge"] == side, name]) for side, name in SIDES)
    for names, what in ((gone & added, "with other pixels"), (added - gone, "new"), (gone - added, "gone")):
        if names:
            yield f"{len(names)} {what} ({_first(sorted(names))})"
    yield from _told(pairs[pairs["_merge"] == "both"], "label", "with another label")


def _same(old: pd.DataFrame, new: pd.DataFrame) -> bool:
    return len(old) == len(new) and bool((old[TOLD].to_numpy() == new[TOLD].to_numpy()).all())


def _moves(old: pd.DataFrame, new: pd.DataFrame, way: Way | None) -> Iterator[str]:
    if way is None:
        return
    named = " ".join(f"{name}={value}" for name, value in zip(WAY, way, strict=True) if value)
    for column, what in (
        ("part", f"in another part with {named}"),
        ("group", "in another group"),
        ("image", "under another name"),
    ):
        yield from _told(_changed(old, new, column), column, what)


def _changed(old: pd.DataFrame, new: pd.DataFrame, by: str) -> pd.DataFrame:
    """Images whose value of `by` has changed, side by side. Exact copies with the same value count as the same image."""
    alike = ["digest", by]
    a, b = (pd.MultiIndex.from_frame(rows[alike].assign(copy=rows.groupby(alike).cumcount())) for rows in (old, new))
    rest = (old[~a.isin(b)], new[~b.isin(a)])
    sides = [rows.assign(copy=rows.groupby("digest").cumcount()) for rows in rest]
    return sides[0].merge(sides[1], on=["digest", "copy"], how="outer", suffixes=("_before", ""), indicator=True)


def _told(pairs: pd.DataFrame, column: str, what: str) -> Iterator[str]:
    pairs = pairs.sort_values("image")
    now = ["" if column == "image" else f", is {value or 'none'}" for value in pairs[column]]
    then = [value or "none" for value in pairs[f"{column}_before"]]
    if len(pairs):
        said = [f"{image} was {value}{new}" for image, value, new in zip(pairs["image"], then, now, strict=True)]
        yield f"{len(pairs)} {what} ({_first(said, '; ')})"


def _first(texts: Sequence[str], separator: str = ", ") -> str:
    return separator.join([*texts[:MOST], *(["..."] if len(texts) > MOST else [])])
