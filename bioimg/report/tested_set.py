"""What recipes reached on external sets, and on groups: other units than the test images."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from bioimg.results import statistics
from bioimg.results.external_sets import ExternalSet, external_results
from bioimg.results.group_predictions import GroupProblem, find_group_problem, group_results
from bioimg.results.result_store import Results

SCORE_COLUMNS = ("score_home", "score_away", "change")


@dataclass(frozen=True, eq=False)
class TestedSet:
    """The recipes on an external set. Each property is computed at its first use."""

    name: str
    record: ExternalSet
    home: Results
    """The results that are compared, of the chosen values of tuned fields."""
    best_key: str
    """The key of the configuration that validation at home chose; empty if there is none."""

    @cached_property
    def results(self) -> Results:
        """Results in which the images of this set stand in place of the test images."""
        return external_results(self.home, self.name)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Each evaluated configuration by its key, as from `statistics.configuration_scores`.

        Also `score_home`, `score_away` and `change`, from home to here, each with `_low` and
        `_high`. Home is that of the same runs.
        """
        here = _score_configurations(self.results)
        is_evaluated = self.home.trials["key"].isin(self.results.predictions["key"])
        accuracies = self.home.trials["test_accuracy"].where(is_evaluated)
        same_runs = Results(
            self.home.manifest,
            self.home.trials.assign(test_accuracy=accuracies),
            self.home.epochs,
            self.home.predictions,
            self.home.images,
        )
        home = _score_configurations(same_runs).reindex(here.index)
        columns: dict[str, Any] = {}
        for name, scores in (("score_home", home), ("score_away", here)):
            columns[name] = scores["score"]
            columns[f"{name}_low"] = scores["low"]
            columns[f"{name}_high"] = scores["high"]
        columns["change"] = here["score"] - home["score"]
        limits = []
        for key in here.index:
            limits.append(_change_interval(here.loc[key], home.loc[key]))
        ends = np.array(limits, float).reshape(-1, 2)
        return here.assign(**columns, change_low=ends[:, 0], change_high=ends[:, 1])

    @cached_property
    def best_pairs(self) -> pd.DataFrame:
        """Every other evaluated configuration (a) against the best one (b), on this set.

        The columns are those of `statistics.compare_pairs`. It has no rows if the best one wasn't
        evaluated.
        """
        return statistics.compare_pairs(self.results, self.best_key)

    @property
    def has_best(self) -> bool:
        """Whether the configuration that validation chose was evaluated."""
        return self.best_key in self.scores.index

    @property
    def has_folds(self) -> bool:
        """Whether models of several folds were tested on it, whose training images overlap."""
        is_evaluated = self.home.trials["key"].isin(self.results.predictions["key"])
        return self.home.trials.loc[is_evaluated, "fold"].nunique() > 1

    @cached_property
    def highest_key(self) -> str:
        """The configuration with the highest score here; of equal ones the best."""
        scores = self.scores["score_away"]
        if self.has_best and scores[self.best_key] >= scores.max():
            return self.best_key
        return str(scores.idxmax())


def _score_configurations(results: Results) -> pd.DataFrame:
    scores = statistics.configuration_scores(results).set_index("key")
    return scores.astype({"score": float, "low": float, "high": float})


def _change_interval(here: Any, home: Any) -> tuple[float, float]:
    return statistics.difference_interval(
        here["score"], (here["low"], here["high"]), home["score"], (home["low"], home["high"])
    )


@dataclass(frozen=True, eq=False)
class GroupedSet:
    """The recipes on groups, such as patients, of the test images or of an external set."""

    name: str
    """The name of the external set; empty for the test images."""
    images: Results
    """Results with the images of this set as test images."""
    best_key: str
    """The key of the configuration that validation at home chose; empty if there is none."""

    @cached_property
    def problem(self) -> GroupProblem:
        """Why there are no numbers of groups, as from `find_group_problem`."""
        return find_group_problem(self.images)

    @cached_property
    def results(self) -> Results:
        """Results in which groups stand in place of the test images."""
        return group_results(self.images)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Each configuration by its key, as from `statistics.configuration_scores`."""
        return _score_configurations(self.results)

    @cached_property
    def best_pairs(self) -> pd.DataFrame:
        """Every other configuration (a) against the best one (b), over groups."""
        return statistics.compare_pairs(self.results, self.best_key)

    @property
    def has_best(self) -> bool:
        """Whether the configuration that validation chose was tested on these groups."""
        return self.best_key in self.scores.index

    @cached_property
    def class_metrics(self) -> pd.DataFrame:
        """Each trial and class: its `key`, and the columns of `statistics.class_metrics`."""
        tables = []
        for key in self.results.predictions["key"].unique():
            tables.append(statistics.class_metrics(self.results, key).assign(key=key))
        return pd.concat(tables, ignore_index=True)
