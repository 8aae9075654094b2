"""Predictions for groups, such as patients: the mean of the probabilities of their images."""

import dataclasses
from typing import Literal

import numpy as np

from bioimg.results.external_sets import replace_test_rows
from bioimg.results.result_store import Results

GroupProblem = Literal["", "unknown", "single", "labels", "leak"]


def find_group_problem(results: Results) -> GroupProblem:
    """Return why test predictions can't be made for groups; empty if they can.

    unknown: no groups are known, or not that of every image.
    single: each group has one image, so there is nothing to average.
    labels: a group has images of several classes.
    leak: the images of a group are in several subsets or folds.
    """
    rows = results.predictions
    rows = rows[rows["subset"].eq("test")]
    if rows.empty or rows["group"].isna().any():
        return "unknown"
    images = rows.drop_duplicates("image")
    groups = images.groupby("group")
    if len(groups) == len(images):
        return "single"
    if groups["label"].nunique().max() > 1:
        return "labels"
    folds = dict(zip(results.trials["key"], results.trials["fold"], strict=True))
    folds_by_group = rows["key"].map(folds).groupby(rows["group"]).nunique()
    is_split = results.trials["split_leaks_groups"].eq(True).any()
    if is_split or folds_by_group.max() > 1:
        return "leak"
    return ""


def group_results(results: Results) -> Results:
    """Return results in which groups stand in place of the test images.

    The probabilities of a group are the means of those of its images, and its prediction is the
    most probable class. `find_group_problem` must find none.
    """
    rows = results.predictions
    rows = rows[rows["subset"].eq("test")]
    matrix = np.stack(rows["probabilities"].tolist())
    grouped = rows.groupby(["key", "group"], sort=False)
    numbers = grouped.ngroup().to_numpy()
    sums = np.zeros((grouped.ngroups, matrix.shape[1]))
    np.add.at(sums, numbers, matrix)
    means = sums / np.bincount(numbers)[:, None]
    first = grouped.first().reset_index()
    rows_of_groups = first.assign(
        image=first["group"],
        group=None,
        prediction=means.argmax(1),
        probabilities=list(means.astype(np.float32)),
    )
    by_group = replace_test_rows(results, rows_of_groups)
    # images stay the unit of sizes, since the test over folds compares these with training images
    trials = by_group.trials.assign(test_images=results.trials["test_images"])
    return dataclasses.replace(by_group, trials=trials)
