"""Compare the results of two runs, and those of one run before and after an interruption."""

from pathlib import Path

import pandas as pd

from bioimg.results.result_store import Results, ResultStore

TIMING = [
    "recipe_seconds",
    "train_seconds",
    "features_seconds",
    "wait_seconds",
    "seconds",
    "started_at",
    "ended_at",
]


def assert_same_results(a: Results, b: Results) -> None:
    """Check that every row of every table is the same to the last bit, timing aside."""
    for name in ("trials", "epochs", "predictions"):
        ours, theirs = (_without_timing(getattr(results, name)) for results in (a, b))
        order = [column for column in ("key", "epoch", "subset", "image") if column in ours]
        pd.testing.assert_frame_equal(
            ours.sort_values(order, ignore_index=True),
            theirs.sort_values(order, ignore_index=True),
            check_exact=True,
        )


def recorded_epochs(folder: Path | str) -> pd.DataFrame:
    """Return the epochs that a folder holds at the moment, those of running trials included."""
    return pd.DataFrame(ResultStore(folder).tables.all_rows("epochs"))


def assert_no_epoch_repeated(before: pd.DataFrame, after: pd.DataFrame) -> None:
    """Check that no recorded epoch was trained again: its time is the one measured before."""
    assert len(before), "nothing was recorded before, so there is nothing to compare"
    both = before.merge(after, on=["key", "epoch"], how="left", suffixes=("", "_after"))
    assert both["seconds_after"].tolist() == both["seconds"].tolist()


def stopped_keys(results: Results) -> list[str]:
    """Return the keys of the trials that early stopping has stopped."""
    return results.trials.loc[results.trials["status"] == "stopped", "key"].tolist()


def _without_timing(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns=[name for name in TIMING if name in table])
