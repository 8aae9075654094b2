"""An experiment from its question to its table: check all that can be checked, read the images, run what is missing."""

import datetime
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress as Bar

from bioimg import data, provenance
from bioimg.config import TrialConfig, UserError
from bioimg.data.imageset import ImageSet
from bioimg.experiment import Experiment
from bioimg.flags import Settings
from bioimg.model.build import build, check
from bioimg.progress import Progress, Watcher
from bioimg.results.store import Store, read


def run(experiment: Experiment, settings: Settings, console: Console) -> int:
    """Run an experiment and print its table. Returns the exit code: 0, or 1 if a trial failed.

    Raises:
        UserError: something that the user can mend; what can be known at once comes before any image is read.
    """
    trials = experiment.trials()
    store = Store(settings.out or Path("results") / experiment.name)
    store.check(experiment.name)
    check_models(trials)
    execute = executor(trials, settings)
    images = load_images(trials, console)
    check_batches(trials, images)

    description = provenance.describe(experiment, next(iter(images.values())))
    store.begin(description)
    statuses = {key: status for key, status in store.statuses().items() if status != "failed"}
    missing = [trial for trial in trials if trial.key not in statuses]
    try:
        with Progress(trials, experiment.axes, statuses, console) as progress:
            execute(experiment, missing, images, store, progress)
    finally:
        store.merge([trial.key for trial in trials])
    store.describe({**description, "complete": True, "finished": datetime.datetime.now(datetime.UTC).isoformat()})
    return conclude(store, experiment, console)


Executor = Callable[[Experiment, Sequence[TrialConfig], Mapping[int, ImageSet], Store, Watcher], None]
"""Runs trials and leaves their rows in the store."""


def executor(trials: Sequence[TrialConfig], settings: Settings) -> Executor:
    """Lanes on Ray, or the twin in this process.

    Raises:
        UserError: there aren't as many devices as a trial has workers.
    """
    if settings.local:
        from bioimg import local

        return local.executor(trials)
    from bioimg.cluster import search

    return search.executor(trials, settings.lanes)


def check_models(trials: Sequence[TrialConfig]) -> None:
    """Hold models, weights and freezing against what torchvision has, then read each of the weights once.

    Raises:
        UserError: as `bioimg.model.build.build`.
    """
    for trial in {(t.model, t.weights, t.freeze, t.image_size): t for t in trials}.values():
        check(trial)
    for trial in {(t.model, t.weights): t for t in trials}.values():
        build(trial, classes=2)


def load_images(trials: Sequence[TrialConfig], console: Console) -> dict[int, ImageSet]:
    """The set at each image size that occurs, with a bar while it is decoded."""
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading images", total=None)
        return {
            trial.image_size: data.load(trial, lambda done, total: bar.update(task, completed=done, total=total))
            for trial in {trial.image_size: trial for trial in trials}.values()
        }


def check_batches(trials: Sequence[TrialConfig], images: Mapping[int, ImageSet]) -> None:
    """Hold each trial's batch size against what its split leaves to train on.

    Raises:
        UserError: the images can't be split so, or a batch is larger than the training set.
    """
    for trial in {(t.split, t.batch_size, t.image_size): t for t in trials}.values():
        held = len(data.split(images[trial.image_size], trial).train)
        if trial.batch_size > held:
            raise UserError(
                f"the value of `batch_size` is {trial.batch_size}, but must not be larger than the training set, "
                f"which is {held} images. Lower it."
            )


def conclude(store: Store, experiment: Experiment, console: Console) -> int:
    """Print the table and what failed."""
    results = read(store.folder)
    console.print(results.trials)
    return int("failed" in results.trials["status"].to_list())
