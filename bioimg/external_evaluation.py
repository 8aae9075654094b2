"""Apply the completed recipes of an experiment to labelled images from elsewhere.

Most imports happen when a function runs, so that the help of `bioimg evaluate` is instant.
"""

import contextlib
import dataclasses
import datetime
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress as Bar

from bioimg.config import DatasetConfig, TrialConfig
from bioimg.errors import UserError, unknown_value_error
from bioimg.progress.console import print_plain
from bioimg.text import join_first

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

    from bioimg.data.external_images import ExternalImages
    from bioimg.data.image_set import Dataset, ImageSet
    from bioimg.models.checked_safetensors import SavedModel
    from bioimg.results.external_sets import ExternalSet
    from bioimg.results.result_store import Results, ResultStore

NAME_PATTERN = r"\w[\w.-]*"


@dataclass(frozen=True, kw_only=True)
class ExternalSource:
    """Where the images of an external set are, and how its labels are understood."""

    data: str
    columns: str | None = None
    images: str | None = None
    layout: str | None = None
    group_pattern: str | None = None
    class_map: Mapping[str, str] = dataclasses.field(default_factory=dict)
    skip_copies: bool = False
    skip_unreadable: bool = False

    def config_for(self, trial: TrialConfig) -> DatasetConfig:
        """Return the setting with which a trial's images are read, for the images of this set."""
        return dataclasses.replace(
            trial.dataset_config,
            data=self.data,
            columns=self.columns,
            images=self.images,
            layout=self.layout,
            group_pattern=self.group_pattern,
            skip_unreadable=self.skip_unreadable,
        )


def evaluate_external_set(
    folder: str, name: str, source: ExternalSource, keys: Sequence[str], console: Console
) -> None:
    """Predict the images of an external set by each trial that wasn't evaluated on it yet.

    Args:
        folder: the results folder.
        name: what the set is called in results.
        source: the images.
        keys: the trials; by default all completed ones of the values that were chosen.
        console: where to print progress and warnings.

    Raises:
        UserError: the images can't be used, copies of training or validation images are among them,
            the name stands for other images, or no trial can be evaluated.
    """
    from bioimg.results.result_store import ResultStore, read_results

    _check_name(name)
    results = read_results(folder)
    store = ResultStore(folder)
    trials = _select_trials(results, store, keys, console)
    store.hold()
    try:
        _evaluate(results, store, name, source, trials, console)
    finally:
        store.release()


def check_listed_sets(
    sources: Mapping[str, ExternalSource], trial: TrialConfig, classes: Sequence[str]
) -> None:
    """Check external sets before an experiment runs, as far as it goes without decoding an image.

    Raises:
        UserError: there are no such images, or they have other classes.
    """
    from bioimg.data.external_images import list_external_images

    for name, source in sources.items():
        with _naming_the_set(name):
            list_external_images(source.config_for(trial), classes, source.class_map)


def check_external_sets(
    sources: Mapping[str, ExternalSource],
    datasets: Mapping[TrialConfig, "Dataset"],
    manifest: Mapping[str, Any],
) -> None:
    """Check external sets before an experiment runs against its own images.

    datasets: those of the experiment's trials.
    manifest: the content of experiment.json, empty in a new results folder.

    Raises:
        UserError: `evaluate_external_set` would refuse them once all trials have ended.
    """
    from bioimg.results.external_sets import read_external_sets

    recorded = read_external_sets(manifest)
    trial, dataset = next(iter(datasets.items()))
    known_digests: set[str] = set()
    for own in datasets.values():
        known_digests |= _selected_digests(own)
    for name, source in sources.items():
        with _naming_the_set(name):
            images = _ImageReader(dataset.images.classes, source).read(trial)
            _find_copies(images, known_digests, source)
            _require_same_set(name, images, recorded.get(name))
            images.require_same_depth(dataset.images.scaling_limits)


def _selected_digests(dataset: "Dataset") -> set[str]:
    """Return the digests of all training and validation images."""
    rows = (*dataset.split.train, *dataset.split.val)
    return {dataset.images.digests[row] for row in rows}


@contextlib.contextmanager
def _naming_the_set(name: str) -> "Iterator[None]":
    """Name the external set in errors about it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"external set {name!r}: {error}") from error


def parse_external_sets(pairs: Sequence[str]) -> dict[str, ExternalSource]:
    """Read pairs such as `hospital-b=their-tiles`: what an external set is called, and its images.

    Raises:
        UserError: a pair isn't a name and images, or a name is given twice.
    """
    sources: dict[str, ExternalSource] = {}
    for pair in pairs:
        name, _, data = pair.partition("=")
        if not re.fullmatch(NAME_PATTERN, name) or not data or name in sources:
            raise UserError(
                f"the value of `external` is {pair!r}, but must be a name of letters, digits, - . "
                "and _, and where the images are, as in hospital-b=their-tiles, and each name "
                "once. Correct it."
            )
        sources[name] = ExternalSource(data=data)
    return sources


def parse_class_map(pairs: Sequence[str]) -> dict[str, str]:
    """Read pairs such as `tumour=tumor`: the set's own name of a class, and the experiment's.

    Raises:
        UserError: a pair isn't two names, or a name is given twice.
    """
    class_map: dict[str, str] = {}
    for pair in pairs:
        own, _, target = pair.partition("=")
        if not own or not target or own in class_map:
            raise UserError(
                f"the value of `map` is {pair!r}, but must be a class of the images and one of the "
                "experiment, as in tumour=tumor, and each class once. Correct it."
            )
        class_map[own] = target
    return class_map


def _check_name(name: str) -> None:
    if not re.fullmatch(NAME_PATTERN, name):
        raise UserError(
            f"the value of `name` is {name!r}, but must be letters, digits, - . and _, as in "
            "hospital-b. Choose such a name."
        )


def _select_trials(
    results: "Results", store: "ResultStore", keys: Sequence[str], console: Console
) -> list[dict[str, Any]]:
    """Return the rows of completed trials whose weights were kept, and print which weren't."""
    from bioimg.results.chosen_values import chosen_results
    from bioimg.training.checkpoint_files import has_best_model

    all_trials = results.trials if keys else chosen_results(results).trials
    completed = all_trials[all_trials["status"].eq("completed")]
    for key in keys:
        if key not in set(completed["key"]):
            raise unknown_value_error("key", key, completed["key"], "These trials are completed.")
    chosen = completed[completed["key"].isin(list(keys))] if keys else completed
    is_kept = [has_best_model(store, key) for key in chosen["key"]]
    if not any(is_kept):
        raise UserError(
            f"{store.display_name} has no completed trial whose weights were kept. Run the "
            "experiment with --keep best (the default) or --keep all."
        )
    lost = len(is_kept) - sum(is_kept)
    if lost:
        text = f"{lost} of {len(is_kept)} completed trials can't be evaluated: no weights were kept"
        print_plain(console, f"warning: {text}.", style="yellow")
    kept_keys = set(chosen["key"][is_kept])
    # with the types of the fields, which a data frame changes where values are missing
    return [row for row in store.tables.all_rows("trials") if row["key"] in kept_keys]


def _evaluate(
    results: "Results",
    store: "ResultStore",
    name: str,
    source: ExternalSource,
    trials: Sequence[Mapping[str, Any]],
    console: Console,
) -> None:
    from bioimg.data.intensity_scaling import describe_clipping
    from bioimg.results.external_sets import external_subset, read_external_sets

    first_trial = TrialConfig.from_row(trials[0])
    reader = _ImageReader(results.manifest["data"]["classes"], source)
    images = reader.read(first_trial)
    selected = results.images[results.images["subset"].isin(["train", "val"])]
    copies = _find_copies(images, set(selected["digest"]), source)
    images = reader.leave_out(first_trial, copies)
    manifest = store.read_manifest()
    recorded = read_external_sets(manifest).get(name)
    _require_same_set(name, images, recorded)
    external = _describe_set(images, first_trial, selected, source, len(copies))
    for text in _describe_images(images, external):
        print_plain(console, text)
    for text in _find_doubts(images, external, results):
        print_plain(console, f"warning: {text}", style="bold yellow")
    subset = external_subset(name)
    predictions = results.predictions
    evaluated = set(predictions.loc[predictions["subset"].eq(subset), "key"])
    missing = [row for row in trials if row["key"] not in evaluated]
    if not missing:
        print_plain(console, f"All {len(trials)} trials were evaluated on {name} before.")
        return
    # before anything is recorded, since images of another depth are refused here
    saved, _ = _scale_images(store, missing[0], reader)
    share = images.clipped_share(saved.scaling_limits)
    if text := describe_clipping(share or 0):
        print_plain(console, f"warning: {text}", style="bold yellow")
    past = recorded.evaluations if recorded else []
    evaluations = [*past, _evaluation_record(len(evaluated) + len(missing))]
    external = dataclasses.replace(external, evaluations=evaluations, clipped_share=share)
    sets = {**manifest.get("external", {}), name: dataclasses.asdict(external)}
    store.write_manifest({**manifest, "external": sets})
    try:
        with Bar(console=Console(stderr=True), transient=True) as bar:
            for row in bar.track(missing, description=f"evaluating on {name}"):
                _evaluate_trial(store, row, subset, reader)
    finally:
        store.tables.merge_and_delete_parts(results.trials["key"])
    print_plain(console, f"{len(missing)} trials were evaluated on {name}.")


class _ImageReader:
    """The images of an external set, read as those of each trial."""

    def __init__(self, classes: Sequence[str], source: ExternalSource) -> None:
        self._classes = classes
        self._source = source
        self._images_by_config: dict[DatasetConfig, ExternalImages] = {}
        self._left_out: set[str] = set()

    def read(self, trial: TrialConfig) -> "ExternalImages":
        """Return the images at the size of a trial, but for those that are left out."""
        import numpy as np

        from bioimg.data.external_images import load_external_images

        config = self._source.config_for(trial)
        if config not in self._images_by_config:
            with Bar(console=Console(stderr=True), transient=True) as bar:
                task = bar.add_task("reading images", total=None)
                images = load_external_images(
                    config,
                    self._classes,
                    self._source.class_map,
                    lambda done, total: bar.update(task, completed=done, total=total),
                )
            is_left_out = np.isin(images.used.paths, list(self._left_out))
            self._images_by_config[config] = images.leave_out(is_left_out)
        return self._images_by_config[config]

    def leave_out(self, trial: TrialConfig, paths: Sequence[str]) -> "ExternalImages":
        """Leave images out from now on. Return those that remain for a trial.

        Raises:
            UserError: none remains.
        """
        self._left_out = set(paths)
        self._images_by_config.clear()
        images = self.read(trial)
        if not len(images):
            raise UserError(
                f"all images of {self._source.data!r} are copies of training or validation images, "
                "so nothing is left to evaluate. Use images from elsewhere."
            )
        return images


def _find_copies(
    images: "ExternalImages", known_digests: Collection[str], source: ExternalSource
) -> list[str]:
    """Return the paths of copies of training and validation images, if these may be left out.

    Raises:
        UserError: they may not; it lists them.
    """
    pairs = zip(images.used.paths, images.digests, strict=True)
    copies = [path for path, digest in pairs if digest in known_digests]
    if copies and not source.skip_copies:
        raise UserError(
            f"{len(copies)} of {len(images)} images of {source.data!r} are copies of training or "
            f"validation images, on which no score is fair: {join_first(copies)}. Remove them, or "
            "leave them out with `bioimg evaluate --skip-copies`."
        )
    return copies


def _describe_set(
    images: "ExternalImages",
    trial: TrialConfig,
    selected: "pd.DataFrame",
    source: ExternalSource,
    copies_left_out: int,
) -> "ExternalSet":
    import numpy as np

    from bioimg.results.external_sets import ExternalSet

    used = images.used
    counts = np.bincount(used.labels, minlength=len(used.classes)).tolist()
    groups = set(used.groups or ())
    return ExternalSet(
        data=used.name,
        fingerprint=images.fingerprint,
        images=len(images),
        groups=len(groups) if used.groups else None,
        classes=dict(zip(used.classes, counts, strict=True)),
        class_map=dict(source.class_map),
        copies_left_out=copies_left_out,
        look_alikes=_count_look_alikes(images, trial, set(selected["image"])),
        known_groups=len(groups & set(selected["group"].dropna())),
        synthetic=used.synthetic,
        evaluations=[],
    )


def _count_look_alikes(
    images: "ExternalImages", trial: TrialConfig, known_paths: set[str]
) -> int | None:
    """Count images that look like a known one of the experiment; None if these can't be read."""
    import numpy as np

    from bioimg.data.external_images import find_look_alikes_of
    from bioimg.data.pixel_cache import DecodeOptions, read_images
    from bioimg.data.sources import list_images

    config = trial.dataset_config
    try:
        index = list_images(config)
        options = DecodeOptions.from_config(config)
        known = read_images(index, options, skip_unreadable=config.skip_unreadable)
    except UserError:
        # moved, or on another machine
        return None
    readable = index.select(known.readable_indices)
    rows = np.flatnonzero(np.isin(readable.paths, list(known_paths)))
    return int(find_look_alikes_of(images, known, rows).sum()) if len(rows) else None


def _require_same_set(name: str, images: "ExternalImages", recorded: "ExternalSet | None") -> None:
    """Refuse other images, labels or groups under a name that results have.

    Raises:
        UserError: they are others.
    """
    if recorded and recorded.fingerprint != images.fingerprint:
        raise UserError(
            f"the value of `name` is {name!r}, under which the results hold {recorded.images} "
            f"images of {recorded.data!r} (fingerprint {recorded.fingerprint}), but these "
            f"{len(images)} differ from them in names, pixels, labels or groups (fingerprint "
            f"{images.fingerprint}). Use another name."
        )


def _describe_images(images: "ExternalImages", external: "ExternalSet") -> "Iterator[str]":
    """Yield what the images are and how they were understood."""
    counts = join_first(f"{name} ({count})" for name, count in external.classes.items())
    groups = "" if external.groups is None else f" of {external.groups} groups"
    yield f"{external.data}: {external.images} images{groups}: {counts}."
    if images.index.assumptions:
        yield f"How it is read: {'; '.join(images.index.assumptions)}."
    unreadable = sum(bool(info.error) for info in images.decoded.image_infos)
    if unreadable:
        yield f"Unreadable images left out: {unreadable}."
    if external.copies_left_out:
        yield f"Copies of training or validation images left out: {external.copies_left_out}."


def _find_doubts(
    images: "ExternalImages", external: "ExternalSet", results: "Results"
) -> "Iterator[str]":
    """Yield why results on this set may be too good, or say less than they seem to."""
    import numpy as np

    if external.look_alikes:
        yield (
            f"{external.look_alikes} images look like a training or validation image, turned or "
            "changed: if they are copies, results are too good."
        )
    if external.look_alikes is None:
        yield (
            "whether images look like training images isn't known, since these aren't where they "
            "were."
        )
    if external.known_groups:
        yield (
            f"{external.known_groups} groups have the name of a group of training or validation "
            "images: if these are the same patients or slides, results are too good."
        )
    tested = results.images.loc[results.images["subset"].eq("test"), "digest"]
    test_copies = int(np.isin(images.digests, tested.to_numpy()).sum())
    if test_copies:
        yield f"{test_copies} images are also test images of the experiment."
    if results.images.empty:
        yield (
            "whether copies of training images are among these isn't known, since images.parquet "
            "is gone."
        )
    if external.missing_classes:
        yield f"it has no image of: {join_first(external.missing_classes)}."
    likely = images.index.likely_groups
    if external.groups is None and likely is not None:
        yield (
            f"names suggest {len(set(likely.names))} groups, such as patients. For intervals and "
            "numbers of groups, run `bioimg evaluate` under another name with --group-pattern "
            f"'{likely.pattern}'."
        )


def _evaluation_record(trials: int) -> dict[str, Any]:
    from bioimg.results.looks import Look

    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return dataclasses.asdict(Look(time=now, completed=trials))


def _evaluate_trial(
    store: "ResultStore", row: Mapping[str, Any], subset: str, reader: "_ImageReader"
) -> None:
    import pyarrow as pa
    import torch

    from bioimg.results.schema import PREDICTIONS_SCHEMA
    from bioimg.training import inference, precision

    trial = TrialConfig.from_row(row)
    saved, images = _scale_images(store, row, reader)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = precision.prediction_dtype(row, device)
    probabilities = inference.TrialPredictor(saved, trial, dtype, device).predict(images)
    count = len(images)
    columns = {
        "key": [trial.key] * count,
        "subset": [subset] * count,
        "image": list(images.paths),
        "group": list(images.groups) if images.groups else [None] * count,
        "label": images.labels,
        "prediction": probabilities.argmax(1),
        "probabilities": list(probabilities),
    }
    rows = pa.Table.from_pydict(columns, schema=PREDICTIONS_SCHEMA)
    store.tables.replace_predictions(trial.key, subset, rows)


def _scale_images(
    store: "ResultStore", row: Mapping[str, Any], reader: _ImageReader
) -> "tuple[SavedModel, ImageSet]":
    """Return the model of a trial, and the images as it sees them."""
    from bioimg.training import checkpoints

    trial = TrialConfig.from_row(row)
    saved = checkpoints.load_best_model(store.storage, store.checkpoint_folder(trial.key))
    return saved, reader.read(trial).scale(saved.scaling_limits)
