"""Compare recipes from Python, for example in a notebook.

Each call means what the same words on the command line mean.
"""

import dataclasses
import functools
import html
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bioimg.errors import unknown_value_error
from bioimg.experiment_files import (
    DEFAULT_EXPERIMENT,
    adapt_to_images,
    load_experiment_file,
    packaged_experiments_folder,
)
from bioimg.experiment_settings import apply_settings
from bioimg.report.open_results import open_results
from bioimg.report.write import ReportOptions, write_report

if TYPE_CHECKING:
    import pandas as pd

    from bioimg.report.analysis import Analysis
    from bioimg.report.table_model import Table
    from bioimg.results.result_store import Results


class ComparisonResults:
    """The results of an experiment, read from its folder when they are first needed.

    Raises:
        UserError: there are no results in the folder, or they can't be read.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = str(folder)
        self._results  # noqa: B018  (a wrong folder is reported here, not at the first use)

    @property
    def table(self) -> "pd.DataFrame":
        """The comparison table: one row per configuration, completed ones first.

        Accuracies are fractions. NAME_low and NAME_high are 95 % intervals, NAME_sd is a standard
        deviation over repeats.
        """
        return self._comparison.copy()

    @property
    def best(self) -> "pd.Series | None":
        """The table's row of the best configuration; None if no trial is completed.

        It is chosen on validation images.
        """
        best = self._analysis.best
        if best is None:
            return None
        configurations = self._comparison["key"].map(self._analysis.configuration_by_trial)
        is_best = configurations == best.key
        return self._comparison[is_best].iloc[0]

    def report(self, **options: Any) -> Path | str:
        """Write the report and return its folder, or its address in an object store.

        options: as for `bioimg report`: rows, columns, sort, group_by, single, format, lang, ...

        Raises:
            UserError: there is no such option, or its value isn't possible.
        """
        location = write_report(self.folder, _report_options(options))
        return location if "://" in location else Path(location)

    def evaluate(self, data: str | Path, name: str, **options: Any) -> "pd.DataFrame":
        """Test the recipes on labelled images from elsewhere, as `bioimg evaluate` does.

        Return one row per recipe: its score there (`score_away`) and at home (`score_home`), the
        change, and p of the difference from the best one there by Holm. NAME_low and NAME_high are
        95 % intervals.

        data:    images as for `compare`.
        name:    what the set is called in results, such as hospital-b.
        options: as its flags: columns, images, layout, group_pattern, skip_copies, skip_unreadable,
            and `class_map`, a dict from its names of classes to the experiment's.

        Raises:
            UserError: the images can't be used, or copies of training images are among them.
        """
        from bioimg.external_evaluation import ExternalSource, evaluate_external_set
        from bioimg.report.detail_tables import external_table

        known = [field.name for field in dataclasses.fields(ExternalSource)]
        _require_known_options("evaluate", options, known)
        source = ExternalSource(data=str(data), **options)
        console = Console(file=sys.stdout, force_jupyter=False)
        evaluate_external_set(self.folder, name, source, (), console)
        for cached in ("_results", "_analysis", "_comparison"):
            self.__dict__.pop(cached, None)
        table = external_table(self._analysis, only=name)
        return table.values[_public_columns(table)].reset_index(drop=True)

    def predict(
        self, images: str | Path, key: str | None = None, *, all_runs: bool = False
    ) -> "pd.DataFrame":
        """Predict the classes of new images with the best trial or the one with this key.

        With `all_runs`, the mean probability of all completed runs of its recipe counts.
        Return one row per image: path, predicted class, confidence (its probability, with the
        temperature that validation images gave), the subset of the experiment that has the image,
        if any, and the probability of each class. A warning names images that can't be read.

        Raises:
            UserError: there are no images, no such trial, or its weights weren't kept.
        """
        from bioimg.prediction.kept_trial import select_run_keys, select_trial_key
        from bioimg.prediction.predict_images import predict_images

        trial_key = select_trial_key(self._results, key)
        keys = select_run_keys(self._results, trial_key) if all_runs else [trial_key]
        predictions = predict_images(self._results, self.folder, keys, Path(images))
        for path, reason in predictions.unreadable.items():
            warnings.warn(f"can't be read: {path} ({reason})", stacklevel=2)
        return predictions.table

    def __repr__(self) -> str:
        trials = self._results.trials["status"].value_counts()
        counts = ", ".join(f"{count} {status}" for status, count in trials.items())
        return f"ComparisonResults({self.folder!r}: {counts})"

    def _repr_html_(self) -> str:
        """Return the headline and the comparison table for a notebook."""
        from bioimg.report.report_context import ReportContext
        from bioimg.report.sentences import headline as make_headline

        headline = html.escape(make_headline(ReportContext(self._analysis)))
        return f"<p><strong>{headline}</strong></p>{self._comparison.to_html(index=False)}"

    @functools.cached_property
    def _results(self) -> "Results":
        return open_results(self.folder)

    @functools.cached_property
    def _analysis(self) -> "Analysis":
        from bioimg.report.analysis import Analysis

        return Analysis(self._results)

    @functools.cached_property
    def _comparison(self) -> "pd.DataFrame":
        from bioimg.report.comparison_table import BASELINE_STATE, build_comparison

        table = build_comparison(self._analysis)
        is_recipe = table.values["state"].ne(BASELINE_STATE)
        return table.values.loc[is_recipe, _public_columns(table)].reset_index(drop=True)


def compare(data: str | Path | None = None, **fields: Any) -> ComparisonResults:
    """Compare recipes on a set of images, as `bioimg compare DATA` does, and return the results.

    data:   images as for --data; by default those of the demo.
    fields: settings with the names that `bioimg compare --help` lists, with underscores. Several
        values of a field of `TrialConfig` make an axis; the demo's values hold for all others.

    A call that is interrupted resumes when it is repeated. Trials that fail are rows of the table.

    Raises:
        UserError: there is no such field, or something is wrong with a value or with the images.

    >>> bioimg.compare("images/", weights=["IMAGENET1K_V1", "none"], freeze="features", epochs=20)
    """
    experiment, _ = load_experiment_file(packaged_experiments_folder(), DEFAULT_EXPERIMENT)
    if data is not None:
        experiment = adapt_to_images(experiment, str(data))
    changed, options = apply_settings(experiment, fields)
    from bioimg.runner import default_results_folder, run_experiment

    # a notebook gets plain lines, as a log file does
    run_experiment(changed, options, Console(file=sys.stdout, force_jupyter=False))
    return read_results(options.out or default_results_folder(changed))


def read_results(folder: str | Path) -> ComparisonResults:
    """Read a folder of results, also one whose experiment is still running.

    Raises:
        UserError: it isn't one, another version of bioimg wrote it, or a table is damaged.
    """
    return ComparisonResults(folder)


def _public_columns(table: "Table") -> list[str]:
    """Return the names of what a table shows: keys, settings, and numbers with their intervals."""
    names = ["key"]
    for column in table.columns:
        parts = (column.name, *(f"{column.name}_{part}" for part in ("low", "high", "sd")))
        names += [name for name in parts if name in table.values and name not in names]
    return names


def _require_known_options(method: str, options: Mapping[str, Any], known: Sequence[str]) -> None:
    for name in options:
        if name not in known:
            raise unknown_value_error(method, name, known)


def _report_options(options: dict[str, Any]) -> ReportOptions:
    known = [field.name for field in dataclasses.fields(ReportOptions)]
    _require_known_options("report", options, known)
    for name in ("tables", "columns", "sort", "group_by", "format"):
        if name in options:
            value = options[name]
            options[name] = (value,) if isinstance(value, str) else tuple(value)
    if options.get("out"):
        options["out"] = Path(options["out"])
    return ReportOptions(**options)
