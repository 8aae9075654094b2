"""What the numbers of a results folder do and don't show. Accuracies are fractions; what can't be computed is null."""

from bioimg.results.statistics.curves import curves_diagnosis
from bioimg.results.statistics.differences import best, paired, ties_with_best
from bioimg.results.statistics.effects import effects
from bioimg.results.statistics.intervals import Resamples, wilson, wilson_columns
from bioimg.results.statistics.scores import bootstrap, calibration, confusion, per_class

__all__ = [
    "Resamples",
    "best",
    "bootstrap",
    "calibration",
    "confusion",
    "curves_diagnosis",
    "effects",
    "paired",
    "per_class",
    "ties_with_best",
    "wilson",
    "wilson_columns",
]
