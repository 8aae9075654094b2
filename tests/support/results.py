"""Compare the results of two runs, and those of one run before and after an interruption."""

from pathlib import Path

import pandas as pd

from bioimg.results.result_store import Results, ResultStore
from bioimg.training import checkpoints

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


def saved_epochs(folder: Path | str) -> pd.DataFrame:
    """Return the epochs that a kill at the moment can't undo: up to the state of each trial.

    The first epoch of a trial is always saved. Later ones depend on the time that saving takes.
    """
    store = ResultStore(folder)
    ended = store.tables.trial_statuses()
    epochs = [row for row in store.tables.all_rows("epochs") if row["key"] in ended]
    for key in store.tables.last_epochs().keys() - ended:
        history, _ = checkpoints.load_history(store.storage, store.checkpoint_folder(key))
        epochs += [{"key": key, **epoch} for epoch in history]
    return pd.DataFrame(epochs)


def assert_no_epoch_repeated(before: pd.DataFrame, after: pd.DataFrame) -> None:
    """Check that no saved epoch was trained again: its time is the one measured before."""
    assert len(before), "nothing was saved before, so there is nothing to compare"
    both = before.merge(after, on=["key", "epoch"], how="left", suffixes=("", "_after"))
    assert both["seconds_after"].tolist() == both["seconds"].tolist()


def stopped_keys(results: Results) -> list[str]:
    """Return the keys of the trials that early stopping has stopped."""
    return results.trials.loc[results.trials["status"] == "stopped", "key"].tolist()


def _without_timing(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns=[name for name in TIMING if name in table])
