"""What the numbers of a results folder do and don't show.

Accuracies are fractions. What can't be computed is null."""

from bioimg.results.statistics.comparison_tests import compare_pairs
from bioimg.results.statistics.curves import diagnose_curves
from bioimg.results.statistics.effects import estimate_effects
from bioimg.results.statistics.intervals import GroupBootstrap, wilson_columns, wilson_interval
from bioimg.results.statistics.metrics import (
    bootstrap_metrics,
    calibration_table,
    class_metrics,
    confusion_counts,
)
from bioimg.results.statistics.selection import best_and_indistinguishable, best_configuration

__all__ = [
    "GroupBootstrap",
    "best_and_indistinguishable",
    "best_configuration",
    "bootstrap_metrics",
    "calibration_table",
    "class_metrics",
    "compare_pairs",
    "confusion_counts",
    "diagnose_curves",
    "estimate_effects",
    "wilson_columns",
    "wilson_interval",
]
