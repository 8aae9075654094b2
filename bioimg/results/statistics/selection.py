"""Which configuration validation chose, and which the test images can't tell from it."""

import pandas as pd

from bioimg.results.configurations import configuration_keys
from bioimg.results.result_store import Results
from bioimg.results.statistics.comparison_tests import compare_pairs


def best_configuration(results: Results) -> str | None:
    """Return the configuration that validation chose, as the key of its first trial.

    It has the lowest validation loss, averaged over repeats. Only configurations completed in the
    most folds and, among these, with the largest share of completed repeats are eligible: repeats
    that early stopping didn't end are better than average, and some folds are easier than others.
    The test set isn't used. None if no trial was completed.
    """
    trials = results.trials.assign(
        configuration=configuration_keys(results.trials, results.tuned_fields)
    )
    is_completed = trials["status"].eq("completed")
    completed = trials[is_completed & trials["best_val_loss"].notna()]
    repeats = completed.groupby("configuration", sort=False)
    candidates = pd.DataFrame(
        {
            "loss": repeats["best_val_loss"].mean(),
            "folds": repeats["fold"].nunique(),
            "runs": repeats.size(),
        }
    )
    candidates["share"] = candidates["runs"] / trials.groupby("configuration").size()
    for column in ("folds", "share"):
        largest = candidates[column].max()
        candidates = candidates[candidates[column].eq(largest)]
    if candidates.empty:
        return None
    return str(candidates["loss"].idxmin())


def best_and_indistinguishable(results: Results, pairs: pd.DataFrame | None = None) -> list[str]:
    """Return the best configuration by validation, then those that the test set can't tell from it.

    pairs: `compare_pairs(results, best_configuration(results))`, if it is already known.
    """
    best = best_configuration(results)
    if best is None:
        return []
    if pairs is None:
        pairs = compare_pairs(results, best)
    return [best, *pairs.loc[pairs["verdict"].eq("tie"), "a"]]
