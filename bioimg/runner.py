"""Run an experiment from its question to its table.

Check all that can be checked, read the images, run what is missing, report.
What imports torch is imported where it is used: Ray starts meanwhile.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.progress import Progress as Bar

from bioimg import data, tuning
from bioimg.config import TrialConfig
from bioimg.data.image_set import Dataset, ImageSet, PixelsByPath
from bioimg.early_stopping import unfinished_cohort_leaders
from bioimg.errors import UserError, unknown_value_error
from bioimg.experiment import Experiment
from bioimg.external_evaluation import (
    ExternalSource,
    check_external_sets,
    check_listed_sets,
    evaluate_external_set,
    parse_external_sets,
)
from bioimg.models.quick_lookup import is_surely_available
from bioimg.progress.console import ProgressTable, print_plain
from bioimg.progress.listener import CombinedListener, ProgressListener
from bioimg.progress.trackers import check_trackers_installed, open_trackers
from bioimg.report.write import print_comparison, write_report
from bioimg.results.epoch_summary import has_later_epochs
from bioimg.results.result_store import CHECKPOINTS_FOLDER, ResultStore
from bioimg.results.score import resolve_score
from bioimg.run_options import RunOptions
from bioimg.storage.filesystem import is_remote

Executor = Callable[
    [
        Experiment,
        Sequence[TrialConfig],
        Mapping[TrialConfig, Dataset],
        ResultStore,
        ProgressListener,
    ],
    None,
]
"""Run trials and leave their rows in the store."""


def run_experiment(experiment: Experiment, options: RunOptions, console: Console) -> int:
    """Run an experiment and print its table. Return the exit code: 0, or 1 if a trial failed.

    Raises:
        UserError: something that the user can fix. What can be checked without images is checked
            before any is read, and what can be checked without models before any is trained.
    """
    store = ResultStore(options.out or default_results_folder(experiment))
    store.check_usable(experiment.name)
    external_sets = parse_external_sets(options.external)
    check_trackers_installed(options.track)
    experiment, listed = list_images(experiment)
    trials = experiment.trials()
    check_finish_keys(options.finish or (), trials, store.tables.trial_statuses())
    check_listed_sets(external_sets, trials[0], listed[trials[0]].index.classes)
    print_listed_images(listed, console)
    check_batch_sizes({trial: dataset.train_count for trial, dataset in listed.items()})
    check_names(trials)
    execute = choose_executor(trials, options)

    from bioimg import provenance

    earlier = store.read_manifest_or_empty()
    weights = check_models(trials, earlier.get("weights", {}))
    datasets = load_images(listed, console)
    # images that can't be read are missing by now
    check_batch_sizes({trial: len(dataset.split.train) for trial, dataset in datasets.items()})
    print_split_warnings(datasets, console)
    check_external_sets(external_sets, datasets, earlier)
    images = datasets[trials[0]].images
    print_balanced_score(experiment.base, images, console)
    manifest = provenance.build_manifest(experiment, images, weights, earlier)
    manifest["keep"] = options.keep
    store.open_for_writing(manifest, provenance.image_assignment_rows(datasets))
    try:
        ran = train_trials(experiment, datasets, store, execute, options, console)
        store.write_manifest(provenance.complete_manifest(manifest, earlier, trained=bool(ran)))
        store.delete_ray_files()
    finally:
        store.release()
    are_evaluated = evaluate_external_sets(store, external_sets, console)
    pixels = PixelsByPath(images) if options.report else None
    exit_code = conclude_run(store, [*trials, *ran], pixels, console)
    return exit_code if are_evaluated else 1


def default_results_folder(experiment: Experiment) -> str:
    """Return where results go if no folder is named."""
    return f"results/{experiment.name}"


def train_trials(
    experiment: Experiment,
    datasets: Mapping[TrialConfig, Dataset],
    store: ResultStore,
    execute: Executor,
    options: RunOptions,
    console: Console,
) -> list[TrialConfig]:
    """Run what is missing and what is to be finished, until all that the experiment needs is there.

    What it needs grows where fields are tuned: with further seeds only the chosen values run, and
    they are known only once the others have ended. However it ends, the tables hold all rows that
    exist by then. Return the trials that ran.
    """
    from bioimg.training.checkpoint_files import delete_leftover_states

    ran: list[TrialConfig] = []
    known = dict(datasets)
    try:
        while True:
            statuses = ended_statuses(store, ran)
            wanted = find_wanted_trials(experiment, store, statuses)
            missing = [trial for trial in wanted if trial.key not in statuses]
            if ran and not missing:
                break
            known |= sibling_datasets(known, wanted)
            print_restarts(missing, store, statuses, console)
            listeners = open_listeners(experiment, wanted, statuses, store, options, console)
            with listeners as listener:
                batch = run_batch(
                    experiment, wanted, missing, known, store, execute, options.finish, listener
                )
            if not batch:
                break
            ran += batch
        delete_leftover_states(store, known)
        if options.keep == "best":
            prune_checkpoints(store, console)
    finally:
        store.tables.merge(trial.key for trial in known)
    return ran


def run_batch(
    experiment: Experiment,
    wanted: Sequence[TrialConfig],
    missing: Sequence[TrialConfig],
    datasets: Mapping[TrialConfig, Dataset],
    store: ResultStore,
    execute: Executor,
    finish: Sequence[str] | None,
    listener: ProgressListener,
) -> list[TrialConfig]:
    """Run missing trials, then those of the wanted ones that are to be finished. Return them."""
    order = [trial.key for trial in datasets]
    store.tables.merge_and_delete_parts(order)
    execute(experiment, experiment.in_run_order(missing), datasets, store, listener)
    store.tables.merge_and_delete_parts(order)
    to_finish = select_trials_to_finish(experiment, wanted, store, finish)
    unstopped = dataclasses.replace(experiment, early_stopping=None)
    execute(unstopped, to_finish, datasets, store, listener)
    return [*missing, *to_finish]


def find_wanted_trials(
    experiment: Experiment, store: ResultStore, statuses: Mapping[str, str]
) -> list[TrialConfig]:
    """Return the trials that an experiment is known to need, given those that have ended."""
    rows = [row for row in store.tables.all_rows("trials") if row["key"] in statuses]
    return tuning.wanted_trials(experiment, rows)


def ended_statuses(store: ResultStore, ran: Sequence[TrialConfig]) -> dict[str, str]:
    """Return the status of each trial that has ended, by its key.

    A trial that failed counts only if this session `ran` it: an earlier failure is tried again.
    """
    ran_keys = {trial.key for trial in ran}
    statuses = {}
    for key, status in store.tables.trial_statuses().items():
        if status != "failed" or key in ran_keys:
            statuses[key] = status
    return statuses


def sibling_datasets(
    datasets: Mapping[TrialConfig, Dataset], trials: Sequence[TrialConfig]
) -> dict[TrialConfig, Dataset]:
    """Return the data sets of trials that differ from others in tuned fields or the seed."""
    by_config = {
        (trial.dataset_config, trial.split_config): dataset for trial, dataset in datasets.items()
    }
    return {trial: by_config[trial.dataset_config, trial.split_config] for trial in trials}


@contextlib.contextmanager
def open_listeners(
    experiment: Experiment,
    trials: Sequence[TrialConfig],
    statuses: Mapping[str, str],
    store: ResultStore,
    options: RunOptions,
    console: Console,
) -> Iterator[ProgressListener]:
    """Yield what follows the trials: the progress table, TensorBoard and trackers."""
    with (
        ProgressTable(
            trials,
            experiment.axes,
            statuses,
            console,
            store.score_used,
            tune=experiment.tune,
            expected_count=tuning.expected_count(experiment),
            lowest_losses=store.tables.lowest_losses(),
        ) as progress,
        open_tensorboard(store, trials, experiment) as tensorboard,
        open_trackers(options.track, experiment.name, trials, store.score_used) as trackers,
    ):
        yield CombinedListener(progress, *tensorboard, *trackers)


def print_restarts(
    missing: Sequence[TrialConfig],
    store: ResultStore,
    statuses: Mapping[str, str],
    console: Console,
) -> None:
    """Report how many trials repeat the epochs of a shorter one."""
    restarted = count_restarted_trials(missing, store, statuses)
    if restarted:
        print_plain(
            console,
            f"{restarted} of {len(missing)} trials must start from epoch 1: the state of their "
            "shorter runs was not kept (--keep all keeps it).",
        )


def prune_checkpoints(store: ResultStore, console: Console) -> None:
    """Limit what checkpoints take on disk, and report what was deleted for that."""
    from bioimg.training import checkpoint_pruning

    deleted = checkpoint_pruning.limit_checkpoint_size(store)
    if not deleted:
        return
    statuses = store.tables.trial_statuses().values()
    unfinished = sum(status in checkpoint_pruning.UNFINISHED_STATUSES for status in statuses)
    print_plain(
        console,
        f"To limit disk use, the saved state of {deleted} of {unfinished} stopped or failed trials "
        "was deleted. They restart from epoch 1: stopped ones with --finish, failed ones with the "
        "same command.",
    )


@contextlib.contextmanager
def open_tensorboard(
    store: ResultStore, trials: Sequence[TrialConfig], experiment: Experiment
) -> Iterator[list[ProgressListener]]:
    """Yield the writer of TensorBoard files; none in an object store, where files can't grow."""
    from bioimg.progress.tensorboard import TensorBoardListener

    if is_remote(store.location):
        yield []
        return
    folder = f"{store.location}/tensorboard"
    listener = TensorBoardListener(folder, trials, experiment.axes, store.score_used)
    with contextlib.closing(listener):
        yield [listener]


def select_trials_to_finish(
    experiment: Experiment,
    trials: Sequence[TrialConfig],
    store: ResultStore,
    keys: Sequence[str] | None,
) -> list[TrialConfig]:
    """Return the stopped trials to train to their last epoch.

    These are the trials that the user names (all if none is named or early stopping is off), those
    that an interrupted session was finishing, and those without which a cohort would be missing
    from the comparison.
    """
    rows = {row["key"]: row for row in store.tables.all_rows("trials")}
    latest_epochs = store.tables.last_epochs()
    rule = experiment.stopping_rule
    ended = {trial: rows[trial.key] for trial in trials if trial.key in rows}
    chosen = []
    for trial, row in ended.items():
        is_named = keys is not None and (not keys or trial.key in keys)
        was_interrupted = has_later_epochs(row, latest_epochs.get(trial.key))
        is_wanted = rule is None or is_named or was_interrupted
        if row["status"] == "stopped" and is_wanted:
            chosen.append(trial)
    leaders = unfinished_cohort_leaders(rule, ended) if rule else []
    return chosen + [trial for trial in leaders if trial not in chosen]


def check_finish_keys(
    keys: Sequence[str], trials: Sequence[TrialConfig], statuses: Mapping[str, str]
) -> None:
    """Check the keys to be finished against the trials that have ended.

    Completed trials are allowed, since the same command resumes after an interruption.

    Raises:
        UserError: a key belongs to none of these trials, or its trial hasn't ended.
    """
    ended = [trial.key for trial in trials if trial.key in statuses]
    for key in keys:
        if key in ended:
            continue
        stopped = [ended_key for ended_key in ended if statuses[ended_key] == "stopped"]
        if not stopped:
            raise UserError(
                f"the value of `finish` is {key!r}, but no trial of this command has been stopped. "
                "Without a key, --finish takes all that will be stopped."
            )
        way_out = (
            "These trials of this command are stopped; without a key, --finish takes them all."
        )
        raise unknown_value_error("finish", key, stopped, way_out)


def count_restarted_trials(
    trials: Sequence[TrialConfig], store: ResultStore, statuses: Mapping[str, str]
) -> int:
    """Return how many trials repeat the epochs of a shorter one, because its state wasn't kept."""
    from bioimg.training.checkpoint_files import has_state, shorter_trial_keys

    count = 0
    for trial in trials:
        shorter_keys = [key for key in shorter_trial_keys(trial) if key in statuses]
        candidates = (trial.key, *shorter_keys)
        if shorter_keys and not any(has_state(store, key) for key in candidates):
            count += 1
    return count


def choose_executor(trials: Sequence[TrialConfig], options: RunOptions) -> Executor:
    """Return what runs the trials: lanes on Ray, which is joined or started, or this process.

    Raises:
        UserError: as `bioimg.cluster.open_lanes.open_lanes` or `bioimg.local.make_executor`.
    """
    if options.local:
        from bioimg import local

        return local.make_executor(trials)
    from bioimg.cluster.open_lanes import open_lanes
    from bioimg.diagnostics.run_checks import run_preflight_checks

    return open_lanes(trials, options, run_preflight_checks)


def check_names(trials: Sequence[TrialConfig]) -> None:
    """Check models and weights by their names, before Ray starts and images are decoded.

    Weights of timm and of the Hugging Face hub are downloaded if they aren't on this machine.

    Raises:
        UserError: there is no such model, it has no such weights, or they can't be had.
    """
    names = dict.fromkeys((trial.model, trial.weights) for trial in trials)
    doubtful = [pair for pair in names if not is_surely_available(*pair)]
    if not doubtful:
        return
    from bioimg.models.model_source import find_model_source

    for model, weights in doubtful:
        source = find_model_source(model)
        try:
            source.check_weights(weights)
        except UserError as error:
            if len({model for model, _ in names}) == 1:
                raise
            raise UserError(
                f"{error} Each model is combined with each of `weights`: leave them out, so that "
                "each has its own, or run the command once for each model."
            ) from error
        source.fetch_weights(weights)


def check_models(trials: Sequence[TrialConfig], earlier: Mapping[str, str]) -> dict[str, str]:
    """Check models, weights and freezing, then read all weights once. Return their digests.

    earlier: the digests of earlier sessions, which must be equal.

    Raises:
        UserError: as `bioimg.models.classifier.build_classifier`; or weights have changed.
    """
    from bioimg.models.classifier import build_classifier, check_model
    from bioimg.models.feature_extractor import backbone_digest
    from bioimg.models.pretrained_weights import require_same_weights

    for config in dict.fromkeys(trial.model_config for trial in trials):
        check_model(config)
    digests = {}
    for trial in {(trial.model, trial.weights): trial for trial in trials}.values():
        name = f"{trial.model} {trial.weights}"
        classifier = build_classifier(trial.model_config, classes=2)
        if trial.weights != "none":
            digests[name] = backbone_digest(classifier)
            require_same_weights(trial.weights, digests[name], earlier.get(name))
    return digests


def check_batch_sizes(training_images: Mapping[TrialConfig, int]) -> None:
    """Check each trial's batch size against its number of training images.

    Raises:
        UserError: a batch is larger than the training set.
    """
    for trial, count in training_images.items():
        if trial.batch_size > count:
            raise UserError(
                f"the value of `batch_size` is {trial.batch_size}, but must not be larger than the "
                f"training set, which has {count} images. Lower it."
            )


def list_images(
    experiment: Experiment,
) -> tuple[Experiment, dict[TrialConfig, data.ListedDataset]]:
    """List and split the images of each trial.

    Return the experiment with the split that is used in place of `auto`: all that is recorded and
    shown names it.

    Raises:
        UserError: as `bioimg.data.list_datasets`; or tables of an axis give different splits.
    """
    listed = data.list_datasets(experiment.trials())
    splits = {
        dataset.split_config.split for trial, dataset in listed.items() if trial.split == "auto"
    }
    if not splits:
        return experiment, listed
    if len(splits) > 1:
        raise UserError(
            "the value of `split` is 'auto', but `data` gives parts to some trials only. Choose "
            "one of --split folder, stratified, grouped."
        )
    resolved = experiment.with_split(splits.pop())
    return resolved, dict(zip(resolved.trials(), listed.values(), strict=True))


def print_listed_images(listed: Mapping[TrialConfig, data.ListedDataset], console: Console) -> None:
    """Print what the images are, how their source was understood, and what was left out."""
    texts: list[str] = []
    for dataset in dict.fromkeys(listed.values()):
        texts += data.describe_images(dataset)
    for text in dict.fromkeys(texts):
        print_plain(console, text)


def load_images(
    listed: Mapping[TrialConfig, data.ListedDataset], console: Console
) -> dict[TrialConfig, Dataset]:
    """Load the images of each trial, with a progress bar while they are decoded."""
    with Bar(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading images", total=None)
        return data.load_datasets(
            listed, lambda done, total: bar.update(task, completed=done, total=total)
        )


def print_split_warnings(datasets: Mapping[TrialConfig, Dataset], console: Console) -> None:
    """Print what makes results on these splits too good or uncertain, each warning once."""
    warnings: list[str] = []
    for trial, dataset in datasets.items():
        warnings += data.image_warnings(dataset.images)
        warnings += data.split_warnings(dataset, trial.split_config)
    for warning in dict.fromkeys(warnings):
        print_plain(console, f"warning: {warning}", style="bold yellow")


def print_balanced_score(trial: TrialConfig, images: ImageSet, console: Console) -> None:
    """Report that balanced accuracy is used where the user left the choice open."""
    counts = images.class_counts
    if trial.score == "auto" and resolve_score(trial.score, counts) == "balanced_accuracy":
        smallest, largest = counts.argmin(), counts.argmax()
        print_plain(
            console,
            f"Recipes are compared by balanced accuracy: {images.classes[largest]} has "
            f"{counts[largest]} images, {images.classes[smallest]} has {counts[smallest]}. "
            "--score accuracy counts images alike.",
        )


def evaluate_external_sets(
    store: ResultStore, sources: Mapping[str, ExternalSource], console: Console
) -> bool:
    """Evaluate completed trials on external sets, and print why a set can't be evaluated.

    Such a set costs neither the report nor the other sets. Return whether there is none.
    """
    are_evaluated = True
    for name, source in sources.items():
        try:
            evaluate_external_set(store.location, name, source, (), console)
        except UserError as error:
            print_plain(console, f"not evaluated on {name}: {error}", style="red")
            are_evaluated = False
    return are_evaluated


def conclude_run(
    store: ResultStore,
    trials: Sequence[TrialConfig],
    images: Mapping[str, np.ndarray] | None,
    console: Console,
) -> int:
    """Write the report, and list those of these trials that failed.

    Without images, the table is only printed. Return the exit code: 0, or 1 if a trial failed.
    """
    if images is None:
        print_comparison(store.display_name)
        print_plain(console, f"Make the report with: bioimg report {store.display_name}")
    else:
        write_report(store.display_name, images=images)
    checkpoint_bytes = sum(store.storage.sizes(CHECKPOINTS_FOLDER).values())
    if checkpoint_bytes:
        folder = store.display_path(CHECKPOINTS_FOLDER)
        print_plain(console, f"Checkpoints take {checkpoint_bytes / 1e6:.1f} MB ({folder}).")
    keys = {trial.key for trial in trials}
    failed = [
        row
        for row in store.tables.all_rows("trials")
        if row["key"] in keys and row["status"] == "failed"
    ]
    for row in failed:
        path = store.display_path(f"{store.checkpoint_folder(row['key'])}/error.txt")
        print_plain(console, f"failed: {row['key']}: {row['error']} (more in {path})", style="red")
    return int(bool(failed))
