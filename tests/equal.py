"""When two runs are the same."""

import pandas as pd

from bioimg.results.store import Results

TIMING = ["train_seconds", "wait_seconds", "features_seconds", "seconds", "started_at", "ended_at"]


def same(a: Results, b: Results) -> None:
    """Every row of every table is the same to the last bit, timing aside."""
    for name in ("trials", "epochs", "predictions"):
        ours, theirs = (_without_timing(getattr(results, name)) for results in (a, b))
        order = [column for column in ("key", "epoch", "split", "image") if column in ours]
        pd.testing.assert_frame_equal(
            ours.sort_values(order, ignore_index=True), theirs.sort_values(order, ignore_index=True), check_exact=True
        )


def _without_timing(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns=[name for name in TIMING if name in table])
