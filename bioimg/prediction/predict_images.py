"""Predict the classes of new images, by one trial or by all runs of a recipe."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress as Bar

from bioimg.errors import UnreadableImagesError, UserError
from bioimg.prediction.explanations import prepare_overlay_folder, write_overlays
from bioimg.prediction.kept_trial import KeptTrial, subset_by_digest
from bioimg.progress.console import print_plain
from bioimg.text import join_first

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from rich.progress import TaskID

    from bioimg.data.image_index import ImageIndex
    from bioimg.data.pixel_cache import ProgressCallback
    from bioimg.results.result_store import Results
    from bioimg.results.statistics import Calibration
    from bioimg.storage.partial_table import PartialTable
    from bioimg.training.typicality import TypicalityScale

BLOCK_IMAGES = 2000
"""Images that are predicted together: what is in memory at once, and lost by an interruption."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Predictions:
    """What a trial says of new images."""

    table: "pd.DataFrame"
    """One row per image: path, prediction, confidence, part, and the probability of each class."""
    calibration: "Calibration"
    """How `confidence`, the probability of the predicted class, was made."""
    unreadable: dict[str, str]
    """Why other images can't be read, by path."""
    typicality_scale: "TypicalityScale | None"
    """What the column `typicality` was measured by; None without it."""
    clipped_share: float
    """The share of intensities that lie beyond those of the training images."""


def predict_images(
    results: "Results",
    folder: str,
    keys: Sequence[str],
    images: Path,
    *,
    typicality: bool = False,
    explain: Path | None = None,
    out: Path | None = None,
) -> Predictions:
    """Predict the classes of an image, or of all images in a folder.

    Args:
        results: those in `folder`.
        folder: the results folder.
        keys: the trial, or several of one recipe whose mean probability counts, the best one first.
        images: an image, or a folder of images at any depth.
        typicality: add a column that says how typical each image is of the training images (see
            `bioimg.training.typicality`), for the first trial. The images of the experiment are
            read for it.
        explain: a folder for pictures of where the first trial finds what raises the score of the
            predicted class (see `bioimg.training.class_maps`).
        out: the CSV or .parquet file to write. Until then, what was predicted is kept beside it. So
            the same call goes on after an interruption, unless images, trials or options have
            changed.

    Raises:
        UserError: the weights of a trial weren't kept, there are no images that it can use, those
            of the experiment are needed and aren't where they were, `out` can't be written, or
            there are too many images to explain or the model has no maps.
    """
    from bioimg.data.image_folder import list_unlabelled_images
    from bioimg.storage.partial_table import open_partial_table

    index = list_unlabelled_images(images)
    if explain:
        prepare_overlay_folder(explain, images, len(index))
    predictor = _Predictor(results, folder, keys, typicality=typicality, explain=explain)
    if out is None:
        return _collect_predictions(predictor, index, _predict_blocks(predictor, index, None))
    with open_partial_table(out, predictor.describe_task(index), predictor.schema) as partial:
        _print_resumption(partial)
        blocks = _predict_blocks(predictor, index, partial)
        predictions = _collect_predictions(predictor, index, blocks)
        partial.publish(lambda file: _write_table(predictions.table, file))
    return predictions


class _Predictor:
    """The trials that predict, and what else is said of an image."""

    def __init__(
        self,
        results: "Results",
        folder: str,
        keys: Sequence[str],
        *,
        typicality: bool,
        explain: Path | None,
    ) -> None:
        from bioimg.results import statistics
        from bioimg.results.result_store import ResultStore

        store = ResultStore(folder)
        self.calibration = statistics.calibrate_trials(results, keys)
        self._trials = [KeptTrial.load(store, key) for key in keys]
        self._classes = self._trials[0].saved_model.metadata["classes"]
        self._subsets = subset_by_digest(store, [kept.trial for kept in self._trials])
        self._rater = self._trials[0].make_rater(self._subsets) if typicality else None
        self._explain = explain
        self._mapper = self._trials[0].make_mapper() if explain else None

    @property
    def typicality_scale(self) -> "TypicalityScale | None":
        return self._rater.scale if self._rater else None

    @property
    def schema(self) -> "pa.Schema":
        """The columns of a block: those of the table, and three that concern all blocks."""
        import pyarrow as pa

        typicality = [("typicality", pa.float64())] if self._rater else []
        return pa.schema(
            [
                ("path", pa.string()),
                ("prediction", pa.string()),
                ("confidence", pa.float64()),
                *typicality,
                ("part", pa.string()),
                *((f"probability of {name}", pa.float32()) for name in self._classes),
                ("depth", pa.string()),
                ("clipped", pa.float64()),
                ("error", pa.string()),
            ]
        )

    def describe_task(self, index: "ImageIndex") -> str:
        """Return all that the predictions depend on, as a text."""
        from bioimg.data.pixel_cache import file_signature
        from bioimg.models.checked_safetensors import content_digest

        models = [content_digest(*kept.saved_model) for kept in self._trials]
        configs = [kept.trial for kept in self._trials]
        files = [(file.absolute(), file_signature(file)) for file in index.files]
        subsets = sorted(self._subsets.items())
        temperature = self.calibration.temperature
        explain = self._explain and self._explain.absolute()
        options = (self.schema, explain, BLOCK_IMAGES)
        return repr((options, models, configs, temperature, subsets, files))

    def predict(self, index: "ImageIndex", progress: "ProgressCallback") -> "pa.Table":
        """Return one row per image, with `error` in place of a prediction if it can't be read."""
        import pyarrow as pa

        try:
            readable, unreadable = self._predict_readable(index, progress)
        except UnreadableImagesError as error:
            readable, unreadable = {}, error.reasons
        errors = {"path": list(unreadable), "error": list(unreadable.values())}
        tables = []
        for columns in (readable, errors):
            count = len(columns.get("path", ()))
            full = {name: columns.get(name, [None] * count) for name in self.schema.names}
            tables.append(pa.Table.from_pydict(full, schema=self.schema))
        return pa.concat_tables(tables)

    def _predict_readable(
        self, index: "ImageIndex", progress: "ProgressCallback"
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Return the columns of the images that can be read, and why others can't be."""
        import numpy as np

        from bioimg.data.inference_images import load_unlabelled_images
        from bioimg.data.intensity_scaling import clipped_shares
        from bioimg.results import statistics

        first = self._trials[0]
        config = first.trial.dataset_config
        images, decoded = load_unlabelled_images(index, config, first.scaling_limits, progress)
        probabilities_by_trial = [first.predictor.predict(images)]
        for kept in self._trials[1:]:
            own_images = images
            if kept.scaling_limits != first.scaling_limits:
                # of other training images, as those of another fold, the scaling is another one
                own_images, _ = load_unlabelled_images(index, config, kept.scaling_limits)
            probabilities_by_trial.append(kept.predictor.predict(own_images))
        probabilities = np.mean(probabilities_by_trial, axis=0)
        scaled = statistics.scale_probabilities(probabilities, self.calibration.temperature)
        columns = {
            "path": list(images.paths),
            "prediction": [self._classes[label] for label in probabilities.argmax(1)],
            "confidence": scaled.max(axis=1),
            "part": [self._subsets.get(digest) for digest in images.digests],
            "depth": [str(decoded.pixels.dtype)] * len(images),
        }
        if limits := first.scaling_limits:
            columns["clipped"] = clipped_shares(decoded.pixels, limits)
        for name, column in zip(self._classes, probabilities.T, strict=True):
            columns[f"probability of {name}"] = column
        if self._rater:
            columns["typicality"] = self._rater.rate(images)
        if self._mapper:
            assert self._explain
            write_overlays(self._mapper, images, probabilities.argmax(1), self._explain)
        return columns, decoded.errors_by_path(index.paths)


def _predict_blocks(
    predictor: _Predictor, index: "ImageIndex", partial: "PartialTable | None"
) -> "list[pa.Table]":
    """Return the predictions of all images, block by block, so that few are in memory at once."""
    import numpy as np

    blocks = []
    console = Console(stderr=True)
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        # an image counts once when it is read, and once when it is predicted
        task = bar.add_task("predicting", total=2 * len(index))
        for number, start in enumerate(range(0, len(index), BLOCK_IMAGES)):
            rows = np.arange(start, min(start + BLOCK_IMAGES, len(index)))
            block = partial.read_block(number) if partial else None
            if block is None:
                show_read = functools.partial(_show_read_images, bar, task, start)
                block = predictor.predict(index.select(rows), show_read)
                if partial:
                    partial.write_block(number, block)
            blocks.append(block)
            _require_one_depth(index, blocks)
            bar.update(task, completed=2 * (start + len(rows)))
    return blocks


def _show_read_images(bar: Bar, task: "TaskID", start: int, done: int, total: int) -> None:
    bar.update(task, completed=2 * start + done)


def _require_one_depth(index: "ImageIndex", blocks: "Sequence[pa.Table]") -> None:
    """Refuse images of several depths in several blocks; in one block, reading them does.

    Raises:
        UserError: there are some.
    """
    paths = {}
    for block in blocks:
        paths |= dict(zip(block["depth"].to_pylist(), block["path"].to_pylist(), strict=True))
    paths.pop(None, None)
    if len(paths) > 1:
        examples = [f"{path} ({depth})" for depth, path in paths.items()]
        raise UserError(
            f"the images in {index.name!r} have different depths, so that their brightness can't "
            f"be compared: {join_first(examples)}. Predict those of one depth at a time."
        )


def _collect_predictions(
    predictor: _Predictor, index: "ImageIndex", blocks: "Sequence[pa.Table]"
) -> Predictions:
    """Put blocks together.

    Raises:
        UserError: no image could be read.
    """
    import pyarrow as pa

    rows = pa.concat_tables(blocks).to_pandas()
    is_readable = rows["error"].isna()
    broken = rows[~is_readable]
    unreadable = dict(zip(broken["path"], broken["error"], strict=True))
    if not is_readable.any():
        reasons = join_first(f"{path} ({reason})" for path, reason in unreadable.items())
        raise UserError(
            f"none of the {len(rows)} images in {index.name!r} can be read: {reasons}. Fix them, "
            "or use other images."
        )
    table = rows[is_readable].drop(columns=["depth", "clipped", "error"]).reset_index(drop=True)
    return Predictions(
        table=table,
        calibration=predictor.calibration,
        unreadable=unreadable,
        typicality_scale=predictor.typicality_scale,
        clipped_share=float(rows["clipped"].fillna(0)[is_readable].mean()),
    )


def _print_resumption(partial: "PartialTable") -> None:
    """Report what an interrupted call has left."""
    console = Console(stderr=True)
    if partial.delete_other_blocks():
        print_plain(
            console,
            "Starting anew: images, trials or options aren't those of the interrupted command.",
        )
    elif partial.block_count:
        predicted = partial.block_count * BLOCK_IMAGES
        print_plain(console, f"Going on: up to {predicted} images were predicted before.")


def _write_table(table: "pd.DataFrame", file: Path) -> None:
    if file.suffix == ".parquet":
        table.to_parquet(file, index=False)
    else:
        table.to_csv(file, index=False)
