"""Apply the best trial of an experiment, or another one, to new images.

Most imports happen when a function runs, so that the help of `bioimg predict` is instant.
"""

import contextlib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress as Bar

from bioimg.config import TrialConfig
from bioimg.errors import UnreadableImagesError, UserError, unknown_value_error
from bioimg.progress.console import print_plain
from bioimg.text import join_first

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import torch
    from rich.progress import TaskID

    from bioimg.data.image_index import ImageIndex
    from bioimg.data.image_set import ImageSet, PixelsByPath
    from bioimg.data.pixel_cache import ProgressCallback
    from bioimg.models.checked_safetensors import SavedModel
    from bioimg.results.result_store import Results, ResultStore
    from bioimg.results.statistics import Calibration
    from bioimg.storage.partial_table import PartialTable
    from bioimg.training.class_maps import ClassMapper
    from bioimg.training.inference import TrialPredictor, TypicalityRater
    from bioimg.training.typicality import TypicalityScale

BLOCK_IMAGES = 2000
"""Images that are predicted together: what is in memory at once, and lost by an interruption."""
MAX_EXPLAINED_IMAGES = 500
EXPLANATION = """\
Each picture shows an image as the model sees it and, beside it, where the last layer with maps
finds what raises the score of the predicted class: the brighter, the more (Grad-CAM, Selvaraju et
al. 2017).

What these pictures are not: evidence that the model looks at the right tissue, or the reason for a
prediction. They are coarse, each is scaled by its own highest value, and models without any
training can give pictures that look as convincing (Adebayo et al. 2018, Sanity checks for saliency
maps).
"""


def select_trial_key(results: "Results", key: str | None) -> str:
    """Return the key of the completed trial to use.

    By default it is a trial of the best configuration, with the chosen values of tuned fields: of
    its repeats the one with the lowest validation loss.

    Raises:
        UserError: that trial isn't completed, or none is.
    """
    from bioimg.results import statistics
    from bioimg.results.chosen_values import chosen_results

    best = statistics.best_configuration(chosen_results(results))
    if best is None:
        raise UserError(
            "the value of `folder` must be results with a completed trial, but there is none. Run "
            "the experiment."
        )
    if key is None:
        return select_run_keys(results, best)[0]
    completed = results.trials[results.trials["status"].eq("completed")]
    if key not in set(completed["key"]):
        raise unknown_value_error("key", key, completed["key"], "These trials are completed.")
    return key


def select_run_keys(results: "Results", key: str) -> list[str]:
    """Return the keys of all completed runs of a trial's recipe, the lowest validation loss first.

    They differ in seed and fold and, with tuned fields, in the values that folds chose.
    """
    from bioimg.results.chosen_values import chosen_results
    from bioimg.results.configurations import configuration_keys

    chosen = chosen_results(results).trials
    if key not in set(chosen["key"]):
        # of a value that wasn't chosen
        return [key]
    configurations = configuration_keys(chosen, results.tuned_fields)
    is_run = configurations.eq(configurations[chosen["key"].eq(key)].iloc[0])
    runs = chosen[is_run & chosen["status"].eq("completed")]
    return runs.sort_values("best_val_loss", kind="stable")["key"].tolist()


def format_trial(results: "Results", key: str) -> str:
    """Return the model of a trial and the settings in which it differs from others."""
    from bioimg.results.configurations import REPEAT_FIELDS, varying_fields

    row = results.trials.set_index("key").loc[key]
    names = (
        "model",
        "weights",
        "freeze",
        *varying_fields(results.trials, tuned=()),
        *REPEAT_FIELDS,
    )
    return " ".join(f"{name}={row[name]}" for name in dict.fromkeys(names))


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
        _check_explained_images(explain, images, len(index))
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
        self._trials = [_KeptTrial.load(store, key) for key in keys]
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
        """The columns of a block: those of the table, and two that concern all blocks."""
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
        from bioimg.results import statistics

        first = self._trials[0]
        config = first.trial.dataset_config
        images, decoded = load_unlabelled_images(index, config, first.limits, progress)
        probabilities_by_trial = [first.predictor.predict(images)]
        for kept in self._trials[1:]:
            own_images = images
            if kept.limits != first.limits:
                # of other training images, as those of another fold, the scaling is another one
                own_images, _ = load_unlabelled_images(index, config, kept.limits)
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
        for name, column in zip(self._classes, probabilities.T, strict=True):
            columns[f"probability of {name}"] = column
        if self._rater:
            columns["typicality"] = self._rater.rate(images)
        if self._mapper:
            self._write_overlays(self._mapper, images, probabilities.argmax(1))
        return columns, decoded.errors_by_path(index.paths)

    def _write_overlays(
        self, mapper: "ClassMapper", images: "ImageSet", labels: "np.ndarray"
    ) -> None:
        """Write a picture of each image beside itself with its map."""
        import numpy as np
        from PIL import Image

        from bioimg.training.class_maps import draw_overlay

        assert self._explain
        maps = mapper.iter_maps(images, labels)
        for row, (path, class_map) in enumerate(zip(images.paths, maps, strict=True)):
            pixels = images.pixels[np.array([row])][0]
            pair = np.concatenate([pixels, draw_overlay(pixels, class_map)], axis=1)
            file = self._explain / f"{path}.png"
            with _explain_write_errors("explain", file):
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pair).save(file)


def explain_mistakes(folder: str) -> "tuple[PixelsByPath | None, dict[str, np.ndarray]]":
    """Return an experiment's images, and some of them with a map in colour, by their paths.

    These are the worst mistakes on test images, as on the report's page, with where the trial that
    made them finds what raises the score of its wrong answer. None and {} if there are none.

    Raises:
        UserError: the weights weren't kept, the model has no maps, or an image isn't where it was.
    """
    import numpy as np

    from bioimg.data.external_images import select_images
    from bioimg.data.image_set import PixelsByPath
    from bioimg.data.inference_images import load_experiment_images
    from bioimg.report.analysis import Analysis
    from bioimg.report.open_results import open_results
    from bioimg.results.result_store import ResultStore
    from bioimg.training.class_maps import draw_overlay

    mistakes = Analysis(open_results(folder)).worst_mistakes
    if mistakes.empty:
        return None, {}
    store = ResultStore(folder)
    best = _KeptTrial.load(store, mistakes["key"].iloc[0])
    known, _ = load_experiment_images(best.trial.dataset_config, best.limits)
    digests = store.image_digests()
    row_by_digest = {digest: row for row, digest in enumerate(known.digests)}
    for path in mistakes["image"]:
        if digests[path] not in row_by_digest:
            raise UserError(
                f"the value of `explain` is True, but {path} isn't where it was, or has changed. "
                "Put it back, or leave out --explain."
            )
    rows = np.array([row_by_digest[digests[path]] for path in mistakes["image"]], np.int64)
    images = select_images(known, rows)
    maps = best.make_mapper().iter_maps(images, mistakes["prediction"].to_numpy())
    overlays = {}
    for row, (path, class_map) in enumerate(zip(mistakes["image"], maps, strict=True)):
        overlays[path] = draw_overlay(images.pixels[np.array([row])][0], class_map)
    return PixelsByPath(known), overlays


def _check_explained_images(explain: Path, images: Path, count: int) -> None:
    """Check the folder of pictures and their number, and write down what they aren't.

    Raises:
        UserError: there are too many, or the folder lies among the images.
    """
    if count > MAX_EXPLAINED_IMAGES:
        raise UserError(
            f"the value of `explain` is {str(explain)!r}, which takes a picture of each image, but "
            f"{str(images)!r} holds {count}, and at most {MAX_EXPLAINED_IMAGES} are explained. Put "
            "those of interest into a folder of their own."
        )
    if explain.resolve().is_relative_to(images.resolve()):
        raise UserError(
            f"the value of `explain` is {str(explain)!r}, but must not lie in the folder of the "
            "images, where the pictures would be taken for images. Name another folder."
        )
    with _explain_write_errors("explain", explain):
        explain.mkdir(parents=True, exist_ok=True)
        (explain / "README.txt").write_text(EXPLANATION)


@contextlib.contextmanager
def _explain_write_errors(field: str, path: Path) -> "Iterator[None]":
    try:
        yield
    except OSError as error:
        raise UserError(
            f"the value of `{field}` is {str(path)!r}, which can't be written: {error}."
        ) from error


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
    table = rows[is_readable].drop(columns=["depth", "error"]).reset_index(drop=True)
    return Predictions(
        table=table,
        calibration=predictor.calibration,
        unreadable=unreadable,
        typicality_scale=predictor.typicality_scale,
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


@dataclass(frozen=True, kw_only=True, eq=False)
class _KeptTrial:
    """A completed trial with the model that it kept, and how and where that computes."""

    trial: TrialConfig
    saved_model: "SavedModel"
    dtype: "torch.dtype"
    device: "torch.device"

    @classmethod
    def load(cls, store: "ResultStore", key: str) -> "_KeptTrial":
        import torch

        from bioimg.training import checkpoints, precision

        row: Mapping[str, Any] = store.tables.trial_rows("trials", key)[0]
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return cls(
            trial=TrialConfig.from_row(row),
            saved_model=checkpoints.load_best_model(store.storage, store.checkpoint_folder(key)),
            dtype=precision.prediction_dtype(row, device),
            device=device,
        )

    @property
    def limits(self) -> tuple[tuple[float, float], ...] | None:
        """The intensities that training mapped to 0 and 255, per channel; None if it didn't."""
        scaling = self.saved_model.metadata.get("scaling")
        return tuple((low, high) for low, high in scaling) if scaling else None

    @functools.cached_property
    def predictor(self) -> "TrialPredictor":
        from bioimg.training.inference import TrialPredictor

        return TrialPredictor(self.saved_model, self.trial, self.dtype, self.device)

    def make_mapper(self) -> "ClassMapper":
        """Return what says where the model finds what raises the score of a class.

        Raises:
            UserError: it has no maps.
        """
        from bioimg.training.class_maps import ClassMapper

        return ClassMapper(self.saved_model, self.trial, self.device)

    def make_rater(self, subsets: Mapping[str, str]) -> "TypicalityRater":
        """Return what compares images with those of the experiment, whose subsets are given.

        Raises:
            UserError: these aren't where they were.
        """
        from bioimg.data.inference_images import load_experiment_images
        from bioimg.training.inference import TypicalityRater

        known, _ = load_experiment_images(self.trial.dataset_config, self.limits)
        known_subsets = [subsets.get(digest) for digest in known.digests]
        return TypicalityRater(
            self.saved_model, self.trial, known, known_subsets, self.dtype, self.device
        )


def subset_by_digest(store: "ResultStore", trials: Sequence[TrialConfig]) -> dict[str, str]:
    """Return the subset that each image of some trials was in, by the digest of its pixels.

    Of exact copies in several subsets, and of one image in several folds, training comes before
    validation, and that before the test.
    """
    from bioimg.experiment import SPLIT_FIELDS

    splits = {tuple(getattr(trial, name) for name in SPLIT_FIELDS) for trial in trials}
    rows = [
        row
        for row in store.read_assignments().to_pylist()
        if tuple(row[name] for name in SPLIT_FIELDS) in splits
    ]
    subsets: dict[str, str] = {}
    for subset in ("test", "val", "train"):
        subsets |= {row["digest"]: subset for row in rows if row["subset"] == subset}
    return subsets


def _write_table(table: "pd.DataFrame", file: Path) -> None:
    if file.suffix == ".parquet":
        table.to_parquet(file, index=False)
    else:
        table.to_csv(file, index=False)
