"""An experiment from its question to its table: check all that can be checked, read the images, run what is missing."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.progress import Progress as Bar

from bioimg import data, provenance
from bioimg.config import TrialConfig, UserError, unknown
from bioimg.data.imageset import ByPath, ImageSet
from bioimg.data.split import Labelled
from bioimg.experiment import Experiment
from bioimg.flags import Settings
from bioimg.halving import unrepresented
from bioimg.model.build import build, check
from bioimg.model.extract import digest
from bioimg.model.weights import require_same
from bioimg.progress import Progress, Watcher, Watchers, say
from bioimg.report.command import Report
from bioimg.results.folder import is_remote
from bioimg.results.row import went_on
from bioimg.results.store import CHECKPOINTS, Store
from bioimg.tensorboard import TensorBoard
from bioimg.training import checkpoint, retention

Executor = Callable[[Experiment, Sequence[TrialConfig], Mapping[TrialConfig, ImageSet], Store, Watcher], None]
"""Runs trials and leaves their rows in the store."""


def run(experiment: Experiment, settings: Settings, console: Console) -> int:
    """Run an experiment and print its table. Returns the exit code: 0, or 1 if a trial failed.

    Raises:
        UserError: something that the user can fix; what can be checked without images is checked before any is read.
    """
    trials = experiment.trials()
    store = Store(settings.out or f"results/{experiment.name}")
    store.check(experiment.name)
    check_finish(settings.finish or (), trials, store.tables.statuses())
    check_splits(survey(trials))
    earlier = store.earlier()
    weights = check_models(trials, earlier.get("weights", {}))
    execute = executor(trials, settings)
    images = load_images(trials, console)
    check_splits(images)
    for warning in {warning: None for trial, seen in images.items() for warning in data.warnings(seen, trial)}:
        say(console, f"warning: {warning}", style="bold yellow")

    description = {**provenance.describe(experiment, images[trials[0]], weights, earlier), "keep": settings.keep}
    store.begin(description, provenance.whereabouts(images))
    try:
        trained = train(experiment, images, store, execute, settings, console)
        store.describe(provenance.finished(description, earlier, trained=trained > 0))
        store.tidy()
    finally:
        store.release()
    return conclude(store, trials, ByPath(images[trials[0]]), console)


def train(
    experiment: Experiment,
    images: Mapping[TrialConfig, ImageSet],
    store: Store,
    execute: Executor,
    settings: Settings,
    console: Console,
) -> int:
    """Run the trials that are missing and those that are to be finished. Returns how many there were.

    However it ends, the tables hold all rows that exist by then.
    """
    trials, order = list(images), [trial.key for trial in images]
    statuses = {key: status for key, status in store.tables.statuses().items() if status != "failed"}
    missing = [trial for trial in trials if trial.key not in statuses]
    if anew := begun_anew(missing, store, statuses):
        say(
            console,
            f"{anew} of {len(missing)} trials must start from epoch 1: the state of their shorter runs was not kept "
            "(--keep all keeps it).",
        )
    try:
        drawn = curves(store, trials, experiment)
        with Progress(trials, experiment.axes, statuses, console) as progress, drawn as boards:
            watcher = Watchers(progress, *boards)
            store.tables.settle(order)
            execute(experiment, experiment.queue(missing), images, store, watcher)
            store.tables.settle(order)
            unstopped = dataclasses.replace(experiment, early_stopping=None)
            stopped = to_finish(experiment, trials, store, settings.finish)
            execute(unstopped, stopped, images, store, watcher)
        checkpoint.tidy(store, trials)
        if settings.keep == "best":
            make_room(store, console)
    finally:
        store.tables.merge(order)
    return len(missing) + len(stopped)


def make_room(store: Store, console: Console) -> None:
    """Limit what checkpoints take on disk, and report what was deleted for that."""
    if dropped := retention.make_room(store):
        unfinished = sum(status in retention.UNFINISHED for status in store.tables.statuses().values())
        say(
            console,
            f"To limit disk use, the saved state of {dropped} of {unfinished} stopped or failed trials was deleted. They "
            "restart from epoch 1: stopped ones with --finish, failed ones with the same command.",
        )


@contextlib.contextmanager
def curves(store: Store, trials: Sequence[TrialConfig], experiment: Experiment) -> Iterator[list[Watcher]]:
    """The writer of TensorBoard files; none in an object store, where files can't grow."""
    if is_remote(store.place):
        yield []
    else:
        with contextlib.closing(TensorBoard(f"{store.place}/tensorboard", trials, experiment.axes)) as board:
            yield [board]


def to_finish(
    experiment: Experiment, trials: Sequence[TrialConfig], store: Store, keys: Sequence[str] | None
) -> list[TrialConfig]:
    """Stopped trials to train to their last epoch: those that the user names (all, if none is named or early stopping is
    off), those that an interrupted run was finishing, and those without which a cohort would be missing from the comparison.
    """
    rows, latest = {row["key"]: row for row in store.tables.every("trials")}, store.tables.latest()
    rule = experiment.early_stopping
    ended = {trial: rows[trial.key] for trial in trials if trial.key in rows}
    asked = [
        trial
        for trial, row in ended.items()
        if row["status"] == "stopped"
        and (not rule or (keys is not None and (not keys or trial.key in keys)) or went_on(row, latest.get(trial.key)))
    ]
    return asked + [trial for trial in (unrepresented(rule, ended) if rule else []) if trial not in asked]


def check_finish(keys: Sequence[str], trials: Sequence[TrialConfig], statuses: Mapping[str, str]) -> None:
    """Check the keys to be finished against the trials that have ended. Completed ones are allowed, since the same command
    resumes after an interruption.

    Raises:
        UserError: a key belongs to none of these trials, or its trial hasn't ended.
    """
    ended = [trial.key for trial in trials if trial.key in statuses]
    for key in keys:
        if key not in ended:
            stopped = [known for known in ended if statuses[known] == "stopped"]
            if not stopped:
                raise UserError(
                    f"the value of `finish` is {key!r}, but no trial of this command has been stopped. Without a key, --finish "
                    "takes all that will be stopped."
                )
            way_out = "These trials of this command are stopped; without a key, --finish takes them all."
            raise unknown("finish", key, stopped, way_out)


def begun_anew(trials: Sequence[TrialConfig], store: Store, statuses: Mapping[str, str]) -> int:
    """How many trials repeat the epochs of a shorter one, because its state wasn't kept."""

    def anew(trial: TrialConfig) -> bool:
        known = [key for key in checkpoint.shorter(trial) if key in statuses]
        return bool(known) and not any(checkpoint.has_state(store, key) for key in (trial.key, *known))

    return sum(map(anew, trials)) if statuses else 0


def executor(trials: Sequence[TrialConfig], settings: Settings) -> Executor:
    """Lanes on Ray, or the twin in this process.

    Raises:
        UserError: there aren't as many devices as a trial has workers.
    """
    if settings.local:
        from bioimg import local

        return local.executor(trials)
    from bioimg.cluster import search

    return search.executor(trials, settings.lanes, settings.track)


def check_models(trials: Sequence[TrialConfig], earlier: Mapping[str, str]) -> dict[str, str]:
    """Check models, weights and freezing against torchvision, then read all weights once. Returns their digests, which must
    equal those of earlier runs.

    Raises:
        UserError: as `bioimg.model.build.build`; or weights have changed.
    """
    for trial in {(t.model, t.weights, t.freeze, t.image_size): t for t in trials}.values():
        check(trial)
    digests = {}
    for trial in {(t.model, t.weights): t for t in trials}.values():
        classifier = build(trial, classes=2)
        if trial.weights != "none":
            name = f"{trial.model} {trial.weights}"
            digests[name] = digest(classifier)
            require_same(trial.weights, digests[name], earlier.get(name))
    return digests


def survey(trials: Sequence[TrialConfig]) -> dict[TrialConfig, Labelled]:
    """What is known of each trial's images without decoding any. Each set is read once."""
    seen: dict[tuple[object, ...], Labelled] = {}
    for trial in trials:
        if (pixels := data.pixel_settings(trial)) not in seen:
            seen[pixels] = data.load(trial) if trial.data == "phantom" else data.find(trial)
    return {trial: seen[data.pixel_settings(trial)] for trial in trials}


def check_splits(images: Mapping[TrialConfig, Labelled]) -> None:
    """Check each trial's split and batch size against the images.

    Raises:
        UserError: the images can't be split in this way, or a batch is larger than the training set.
    """
    for trial, labelled in images.items():
        held = len(data.split(labelled, trial).train)
        if trial.batch_size > held:
            raise UserError(
                f"the value of `batch_size` is {trial.batch_size}, but must not be larger than the training set, "
                f"which has {held} images. Lower it."
            )


def load_images(trials: Sequence[TrialConfig], console: Console) -> dict[TrialConfig, ImageSet]:
    """The images of each trial, with a progress bar while they are decoded."""
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading images", total=None)
        return data.load_each(trials, lambda done, total: bar.update(task, completed=done, total=total))


def conclude(store: Store, trials: Sequence[TrialConfig], images: Mapping[str, np.ndarray], console: Console) -> int:
    """Write and print the report, without the figures, and list those of these trials that failed. Returns the exit code."""
    Report(folder=store.shown, figures=False).run(images)
    if taken := sum(store.files.sizes(CHECKPOINTS).values()):
        say(console, f"Checkpoints take {taken / 1e6:.1f} MB ({store.named('checkpoints')}).")
    asked = {trial.key for trial in trials}
    failed = [row for row in store.tables.every("trials") if row["key"] in asked and row["status"] == "failed"]
    for row in failed:
        more = store.named(f"{store.checkpoint(row['key'])}/error.txt")
        say(console, f"failed: {row['key']}: {row['error']} (more in {more})", style="red")
    return int(bool(failed))
