"""Results in memory, from which images each trial gets right: fast enough for many reports."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from bioimg.config import TRIAL_FIELDS, TrialConfig
from bioimg.results.result_store import Results


def simulated_results(
    correct: Mapping[TrialConfig, np.ndarray],
    labels: np.ndarray | None = None,
    groups: Sequence[Any] | np.ndarray | None = None,
    scores: Mapping[TrialConfig, np.ndarray] | None = None,
    images: Mapping[TrialConfig, np.ndarray] | None = None,
    score_used: str = "accuracy",
) -> Results:
    """Return completed trials that get these images right.

    correct: bool [images] for each trial.
    labels: int [images], 0 or 1 if there are `scores`; default: one class.
    groups: [images].
    scores: float [images], the probability of class 1, if it matters.
    images: int [images], the numbers of the trial's test images among all; default: all.
    """
    trials, predictions = [], []
    for config, is_correct in correct.items():
        numbers = np.arange(len(is_correct)) if images is None else images[config]
        n = len(numbers)
        label = np.zeros(n, int) if labels is None else labels[numbers]
        probability = np.full(n, 0.5) if scores is None else scores[config]
        trials.append(
            {name: getattr(config, name) for name in TRIAL_FIELDS}
            | {
                "key": config.key,
                "status": "completed",
                "data_fingerprint": "simulated",
                "test_images": n,
                "train_images": 4 * n,
                "best_val_loss": 0.1,
                "test_accuracy": is_correct.mean(),
                "score_used": score_used,
            }
        )
        predictions.append(
            pd.DataFrame(
                {
                    "key": config.key,
                    "subset": "test",
                    "image": numbers,
                    "group": None if groups is None else np.asarray(groups)[numbers],
                    "label": label,
                    "prediction": np.where(is_correct, label, 1 - label),
                    "probabilities": list(np.column_stack([1 - probability, probability])),
                }
            )
        )
    manifest = {"data": {"classes": ["a", "b"]}}
    return Results(manifest, pd.DataFrame(trials), pd.DataFrame(), pd.concat(predictions))
