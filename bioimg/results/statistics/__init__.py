"""What the numbers of a results folder do and don't show.

Accuracies are fractions. What can't be computed is null."""

from bioimg.results.statistics.comparison_tests import SIGNIFICANCE_LEVEL, compare_pairs
from bioimg.results.statistics.configuration_scores import (
    baseline_score,
    configuration_scores,
    trial_metrics,
)
from bioimg.results.statistics.curves import diagnose_curves
from bioimg.results.statistics.effects import estimate_effects
from bioimg.results.statistics.intervals import (
    difference_interval,
    wilson_columns,
    wilson_interval,
)
from bioimg.results.statistics.metrics import (
    calibration_table,
    class_metrics,
    confusion_counts,
)
from bioimg.results.statistics.selection import best_and_indistinguishable, best_configuration
from bioimg.results.statistics.temperature import (
    Calibration,
    calibrate_trials,
    scale_probabilities,
)

__all__ = [
    "SIGNIFICANCE_LEVEL",
    "Calibration",
    "baseline_score",
    "best_and_indistinguishable",
    "best_configuration",
    "calibrate_trials",
    "calibration_table",
    "class_metrics",
    "compare_pairs",
    "configuration_scores",
    "confusion_counts",
    "diagnose_curves",
    "difference_interval",
    "estimate_effects",
    "scale_probabilities",
    "trial_metrics",
    "wilson_columns",
    "wilson_interval",
]
