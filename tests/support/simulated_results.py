"""Results in memory, from which images each trial gets right: fast enough for many reports."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from bioimg.config import TRIAL_FIELDS, TrialConfig
from bioimg.results.result_store import Results
from bioimg.results.schema import IMAGES_SCHEMA
from bioimg.results.score import Score


def simulated_results(
    correct: Mapping[TrialConfig, np.ndarray],
    labels: np.ndarray | None = None,
    groups: Sequence[int] | np.ndarray | None = None,
    scores: Mapping[TrialConfig, np.ndarray] | None = None,
    folds: np.ndarray | None = None,
    score_used: Score = "accuracy",
) -> Results:
    """Return completed trials that get these of the same test images right.

    correct: bool [images] for each trial.
    labels: int [images], counted from 0; default: all are 0.
    groups: [images]; default: none are known.
    scores: float [images] for each trial, the probability of class 1 of two; default: all classes
        are as likely.
    folds: [images], the fold that tests each; default: every trial tests all images.
    """
    image_count = len(next(iter(correct.values())))
    if labels is None:
        labels = np.zeros(image_count, int)
    class_count = max(2, labels.max() + 1)
    trials, predictions = [], []
    for config, is_correct in correct.items():
        is_tested = np.ones(image_count, bool) if folds is None else folds == config.fold
        test_count = int(is_tested.sum())
        train_count = 4 * image_count if folds is None else image_count - 2 * test_count
        probabilities = np.full((image_count, class_count), 1 / class_count)
        if scores is not None:
            probabilities = np.column_stack([1 - scores[config], scores[config]])
        trials.append(
            {name: getattr(config, name) for name in TRIAL_FIELDS}
            | {
                "key": config.key,
                "status": "completed",
                "data_fingerprint": "simulated",
                "test_images": test_count,
                "train_images": train_count,
                "best_val_loss": 0.1,
                "test_accuracy": is_correct[is_tested].mean(),
                "score_used": score_used,
            }
        )
        predictions.append(
            pd.DataFrame(
                {
                    "key": config.key,
                    "subset": "test",
                    "image": np.arange(image_count),
                    "group": groups,
                    "label": labels,
                    "prediction": np.where(is_correct, labels, (labels + 1) % class_count),
                    "probabilities": list(probabilities),
                }
            )[is_tested]
        )
    classes = [f"class{number}" for number in range(class_count)]
    manifest = {"data": {"classes": classes}}
    images = IMAGES_SCHEMA.empty_table().to_pandas()
    return Results(manifest, pd.DataFrame(trials), pd.DataFrame(), pd.concat(predictions), images)
