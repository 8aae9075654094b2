"""Predictions for groups, such as patients, from those of their images."""

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

    The probabilities of a group are those that `results.aggregate` makes of its images, and its
    prediction is the most probable class. `find_group_problem` must find none.
    """
    rows = results.predictions
    rows = rows[rows["subset"].eq("test")]
    matrix = np.stack(rows["probabilities"].tolist())
    grouped = rows.groupby(["key", "group"], sort=False)
    probabilities, predictions = aggregate_images(
        matrix, grouped.ngroup().to_numpy(), rows["prediction"].to_numpy(), results.aggregate
    )
    first = grouped.first().reset_index()
    rows_of_groups = first.assign(
        image=first["group"],
        group=None,
        prediction=predictions,
        probabilities=list(probabilities.astype(np.float32)),
    )
    by_group = replace_test_rows(results, rows_of_groups)
    # images stay the unit of sizes, since the test over folds compares these with training images
    trials = by_group.trials.assign(test_images=results.trials["test_images"])
    return dataclasses.replace(by_group, trials=trials)


def aggregate_images(
    probabilities: np.ndarray, groups: np.ndarray, predictions: np.ndarray, how: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return the probabilities [G, K] of groups and their predicted classes [G].

    Args:
        probabilities: [N, K], of images.
        groups: int [N], the group of each image, from 0 to G - 1.
        predictions: int [N], the predicted class of each image.
        how: `mean`; `vote`, the share of images with that prediction, where of equal ones the
            class with the higher mean probability counts; or `max`, the highest probability of each
            class, scaled to a sum of 1.
    """
    sizes = np.bincount(groups)[:, None]
    means = np.zeros((len(sizes), probabilities.shape[1]))
    np.add.at(means, groups, probabilities)
    means /= sizes
    if how == "mean":
        return means, means.argmax(1)
    if how == "max":
        highest = np.zeros_like(means)
        np.maximum.at(highest, groups, probabilities)
        return highest / highest.sum(1, keepdims=True), highest.argmax(1)
    votes = np.zeros_like(means)
    np.add.at(votes, (groups, predictions), 1)
    # less than half a vote, so that it decides between equal numbers only
    return votes / sizes, (votes + 0.49 * means).argmax(1)
