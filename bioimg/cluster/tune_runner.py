"""Run an experiment on lanes, while Ray Tune decides which trials continue."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.search.basic_variant import BasicVariantGenerator

from bioimg.cluster import number_format, ray_session
from bioimg.cluster.coordinator_client import CoordinatorClient, start_coordinator
from bioimg.cluster.heartbeat import Heartbeat
from bioimg.cluster.lane_pool import POLL_INTERVAL_S, LanePool
from bioimg.cluster.lanes import DatasetRefs, LaneSpec
from bioimg.cluster.tune_scheduler import CohortScheduler
from bioimg.cluster.tune_trial import encode_trial, relay_trial, trial_key
from bioimg.config import TrialConfig
from bioimg.data.image_set import Dataset
from bioimg.early_stopping import find_images, past_trials
from bioimg.experiment import Experiment
from bioimg.progress.listener import ProgressListener
from bioimg.results.epoch_summary import EpochMetrics
from bioimg.results.result_store import ResultStore

RELAY_MEMORY_BYTES = 1e8
"""What Ray reserves for the process of a Tune trial, which only relays."""
EPOCH_FIELDS = tuple(field.name for field in dataclasses.fields(EpochMetrics))


@dataclass(frozen=True)
class LaneExecutor:
    """Run trials on lanes of the Ray that was joined or started.

    check_nodes: checks that every node can use the results folder, which it gets before the first
        lane starts.
    format_answers: of the machines that were asked for their number formats.
    """

    max_lanes: int | None
    gpus_per_worker: float
    check_nodes: Callable[[str], None]
    format_answers: "Sequence[ray.ObjectRef[str]]"

    def __call__(
        self,
        experiment: Experiment,
        trials: Sequence[TrialConfig],
        datasets: Mapping[TrialConfig, Dataset],
        store: ResultStore,
        listener: ProgressListener,
    ) -> None:
        """Run trials while Tune stops those that fall behind. Return when each has left its row.

        What Ray prints in spite of its settings is written to a file beside the results.

        Raises:
            UserError: the nodes can't run trials, Ray is lost, or as `Heartbeat.beat`.
        """
        if not trials:
            return
        with (
            store.open_ray_log() as log,
            ray_session.redirect_ray_output(log),
            ray_session.report_ray_loss(),
        ):
            self.check_nodes(store.location)
            with contextlib.closing(start_coordinator(len(trials))) as coordinator:
                self._run_trials(experiment, trials, datasets, store, listener, coordinator)

    @functools.cached_property
    def _auto_precision(self) -> str:
        """What a `precision` of `auto` means: the same for all trials, also on machines to come."""
        return number_format.choose_format(self.format_answers)

    def _run_trials(
        self,
        experiment: Experiment,
        trials: Sequence[TrialConfig],
        datasets: Mapping[TrialConfig, Dataset],
        store: ResultStore,
        listener: ProgressListener,
        coordinator: CoordinatorClient,
    ) -> None:
        scheduler = None
        if rule := experiment.stopping_rule:
            earlier = past_trials(store, trials)
            images = find_images(datasets)
            scheduler = CohortScheduler(rule, trials, earlier, images, coordinator)
        stopped_keys = scheduler.stopped_keys if scheduler else set()
        lane_spec = self._make_lane_spec(experiment, trials, datasets, store, coordinator)
        with LanePool(
            lane_spec,
            trials=len(trials),
            max_lanes=self.max_lanes,
            on_message=listener.on_message,
        ) as lane_pool:
            search_algorithm = BasicVariantGenerator(max_concurrent=1)
            heartbeat = Heartbeat(lane_pool, search_algorithm, store)
            callback = _TuneCallback(store, listener, heartbeat, stopped_keys)
            _run_tuner(trials, scheduler, search_algorithm, callback, coordinator, store.ray_folder)
            # lanes still write the rows of trials that Tune has stopped
            while not lane_pool.is_done:
                heartbeat.beat()
                time.sleep(POLL_INTERVAL_S)
        _correct_stopped_statuses(store, listener, stopped_keys)

    def _make_lane_spec(
        self,
        experiment: Experiment,
        trials: Sequence[TrialConfig],
        datasets: Mapping[TrialConfig, Dataset],
        store: ResultStore,
        coordinator: CoordinatorClient,
    ) -> LaneSpec:
        """Return what all lanes have in common."""
        rule = experiment.stopping_rule
        epoch_counts = {trial.epochs for trial in trials}
        return LaneSpec(
            number=0,
            workers=trials[0].workers,
            gpus_per_worker=self.gpus_per_worker,
            auto_precision=self._auto_precision,
            coordinator=coordinator,
            dataset_refs=_put_datasets(trials, datasets),
            experiment_name=experiment.name,
            results_folder=store.location,
            session_id=store.session_id,
            working_dir=str(Path.cwd()),
            rungs_by_epochs={epochs: rule.rungs(epochs) if rule else () for epochs in epoch_counts},
        )


def _correct_stopped_statuses(
    store: ResultStore, listener: ProgressListener, stopped_keys: Set[str]
) -> None:
    """Report trials that Tune stopped, but that ended otherwise.

    Their patience ended at the same epoch, or they failed before they could stop.
    """
    for key, status in store.tables.trial_statuses().items():
        if key in stopped_keys and status != "stopped":
            listener.on_trial_end(key, status)


def _put_datasets(
    trials: Sequence[TrialConfig], datasets: Mapping[TrialConfig, Dataset]
) -> dict[str, DatasetRefs]:
    """Put each set of images and each split into Ray's object store once.

    Return the references to those of each trial, by its key.
    """
    refs: dict[int, ray.ObjectRef[Any]] = {}

    def put_once(value: object) -> "ray.ObjectRef[Any]":
        if id(value) not in refs:
            refs[id(value)] = ray.put(value)
        return refs[id(value)]

    dataset_refs = {}
    for trial in trials:
        dataset = datasets[trial]
        dataset_refs[trial.key] = DatasetRefs(put_once(dataset.images), put_once(dataset.split))
    return dataset_refs


def _run_tuner(
    trials: Sequence[TrialConfig],
    scheduler: CohortScheduler | None,
    search_algorithm: BasicVariantGenerator,
    callback: tune.Callback,
    coordinator: CoordinatorClient,
    folder: str,
) -> None:
    """Run Tune until each trial has ended or been stopped."""
    # other machines come and go, and an autoscaler keeps those that are in use
    this_machine = {f"node:{ray.util.get_node_ip_address()}": 1e-4}
    trainable = tune.with_parameters(relay_trial, coordinator=coordinator)
    tune.Tuner(
        tune.with_resources(trainable, {"memory": RELAY_MEMORY_BYTES, **this_machine}),
        param_space={"trial": tune.grid_search([encode_trial(trial) for trial in trials])},
        tune_config=tune.TuneConfig(
            scheduler=scheduler,
            search_alg=search_algorithm,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial_key(trial.config),
            trial_dirname_creator=lambda trial: trial_key(trial.config),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=folder,
            verbose=0,
            callbacks=[callback],
            # of a process that only relays: it is started again each time
            failure_config=tune.FailureConfig(max_failures=-1),
        ),
    ).fit()


class _TuneCallback(tune.Callback):
    """Pass Tune's events on: those of trials to the listener, each step to the heartbeat."""

    def __init__(
        self,
        store: ResultStore,
        listener: ProgressListener,
        heartbeat: Heartbeat,
        stopped_keys: Set[str],
    ) -> None:
        self._store = store
        self._listener = listener
        self._heartbeat = heartbeat
        self._stopped_keys = stopped_keys

    def __getstate__(self) -> dict[str, Any]:
        """Return nothing: Tune pickles its callbacks for a restore, which isn't used here."""
        return {}

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
        """Call the heartbeat at each turn of Tune's event loop."""
        self._heartbeat.beat()

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Report an epoch, without what Tune has added to it."""
        epoch = {name: result[name] for name in EPOCH_FIELDS}
        self._listener.on_epoch(trial_key(trial.config), epoch)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        """Report how a trial ended."""
        key = trial_key(trial.config)
        if key in self._stopped_keys:
            # its lane has yet to write its row, and an earlier attempt may have left one
            status = "stopped"
        else:
            status = self._store.tables.trial_rows("trials", key)[0]["status"]
        self._listener.on_trial_end(key, status)
