"""Ray Tune decides which trials continue."""

import functools
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

os.environ.setdefault(
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1"
)  # the store is the record; Tune's own files can lose rows
os.environ.setdefault(
    "TUNE_DISABLE_SIGINT_HANDLER", "1"
)  # Ctrl-C ends the program, not only the trial
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the newer output prints at any verbosity

import ray
from ray import tune
from ray.tune.search.basic_variant import BasicVariantGenerator

from bioimg.cluster import ray_session, trackers
from bioimg.cluster.coordinator import start_coordinator
from bioimg.cluster.lane_pool import POLL_INTERVAL_S, LanePool
from bioimg.cluster.lanes import DatasetRefs, LaneSpec
from bioimg.cluster.tune_scheduler import CohortScheduler
from bioimg.cluster.tune_trial import encode_trial, relay_trial, trial_key
from bioimg.config import TrialConfig
from bioimg.data.image_set import Dataset
from bioimg.diagnostics import run_checks
from bioimg.early_stopping import past_trials
from bioimg.errors import UserError
from bioimg.experiment import Experiment
from bioimg.progress.listener import ProgressListener
from bioimg.results.result_store import ResultStore


def make_executor(
    trials: Iterable[TrialConfig], lane_count: int | None, track: Sequence[str] = ()
) -> Callable[..., None]:
    """`run` on at most so many lanes, by default as many as there are devices for, after checking that there are enough or, on
    a cluster that can grow, that there can be.

    Raises:
        UserError: more workers, or lanes of workers, than devices; trials that differ in their workers; a tracker that isn't
            installed.
    """
    trackers.check_trackers_installed(track)
    joined = ray_session.join_cluster()
    kind, available = ray_session.count_devices()
    workers = {trial.workers for trial in trials}
    if len(workers) > 1:
        raise UserError(
            f"the values of `workers` are {sorted(workers)}, but must be the same for all trials of a run: they share lanes."
        )
    each = workers.pop()
    if each * (lane_count or 1) > available and not (joined and lane_count):
        needed = f"`workers` ({each})" + (f" times `lanes` ({lane_count})" if lane_count else "")
        raise UserError(
            f"the value of {needed} is {each * (lane_count or 1)}, but must be at most the number of devices, "
            f"which is {available} ({kind}). Lower it, or use a larger machine or cluster."
            + (
                " If more machines will join this one, set --lanes to the number of lanes to wait for."
                if joined
                else ""
            )
        )
    return functools.partial(run_on_lanes, limit=lane_count, gpu=kind == "GPU", track=track)


def run_on_lanes(
    experiment: Experiment,
    trials: Sequence[TrialConfig],
    datasets: Mapping[TrialConfig, Dataset],
    store: ResultStore,
    watcher: ProgressListener,
    *,
    limit: int | None,
    gpu: bool,
    track: Sequence[str] = (),
) -> None:
    """Run trials on at most `limit` lanes while Tune stops those that fall behind; returns when every trial has left its row.

    What Ray prints in spite of its settings goes to a file beside the results.

    Raises:
        UserError: as `Fleet.tend`, also where that raises Lost.
    """
    if not trials:
        return
    with (
        store.open_ray_log() as log,
        ray_session.redirect_ray_output(log),
        ray_session.report_ray_loss(),
    ):
        ray_session.start_local_ray()
        run_checks.run_preflight_checks(run_checks.folder_uri(store.location))
        lane, rule = (
            _make_lane_spec(experiment, trials, datasets, store, gpu),
            experiment.early_stopping,
        )
        scheduler = (
            CohortScheduler(rule, past_trials(store, trials), lane.coordinator) if rule else None
        )
        with LanePool(lane, trials=len(trials), limit=limit, say=watcher.on_message) as fleet:
            pace = BasicVariantGenerator(max_concurrent=1)
            stopped = scheduler.stopped_keys if scheduler else set()
            told = [
                _ProgressCallback(store, watcher, fleet, pace, stopped),
                *trackers.tracker_callbacks(track, experiment.name),
            ]
            _run_tuner(trials, scheduler, lane.coordinator, told, store.engine_folder, pace)
            while not fleet.is_done:
                fleet.reconcile()
                time.sleep(POLL_INTERVAL_S)
        for ended, status in store.tables.trial_statuses().items():
            if (
                ended in stopped and status != "stopped"
            ):  # patience had ended it as well, or it failed before it could stop
                watcher.on_trial_end(ended, status)


def _make_lane_spec(
    experiment: Experiment,
    trials: Sequence[TrialConfig],
    datasets: Mapping[TrialConfig, Dataset],
    store: ResultStore,
    gpu: bool,
) -> LaneSpec:
    """What all lanes have in common."""
    rule = experiment.early_stopping
    return LaneSpec(
        number=0,
        workers=trials[0].workers,
        gpu=gpu,
        coordinator=start_coordinator(len(trials)),
        dataset_refs=_put_datasets(trials, datasets),
        experiment_name=experiment.name,
        results_folder=store.location,
        session_id=store.session_id,
        working_dir=str(Path.cwd()),
        rungs_by_epochs={
            trial.epochs: rule.rungs(trial.epochs) if rule else () for trial in trials
        },
    )


def _put_datasets(
    trials: Sequence[TrialConfig], datasets: Mapping[TrialConfig, Dataset]
) -> dict[str, DatasetRefs]:
    """Put each set of images and each split into the object store once, and refer to them by the keys of the trials."""
    refs: dict[int, ray.ObjectRef] = {}
    for trial in trials:
        for value in (datasets[trial].images, datasets[trial].split):
            if id(value) not in refs:
                refs[id(value)] = ray.put(value)
    return {
        trial.key: DatasetRefs(refs[id(datasets[trial].images)], refs[id(datasets[trial].split)])
        for trial in trials
    }


def _run_tuner(
    trials: Sequence[TrialConfig],
    scheduler: CohortScheduler | None,
    board: Any,
    told: list[tune.Callback],
    folder: str,
    pace: BasicVariantGenerator,
) -> None:
    here = {
        f"node:{ray.util.get_node_ip_address()}": 1e-4
    }  # other machines come and go, and are kept while in use
    tune.Tuner(
        tune.with_resources(
            tune.with_parameters(relay_trial, board=board), {"memory": 1e8, **here}
        ),
        param_space={"trial": tune.grid_search([encode_trial(trial) for trial in trials])},
        tune_config=tune.TuneConfig(
            scheduler=scheduler,
            search_alg=pace,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial_key(trial.config),
            trial_dirname_creator=lambda trial: trial_key(trial.config),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=folder,
            verbose=0,
            callbacks=told,
            failure_config=tune.FailureConfig(max_failures=-1),  # of a process that only relays
        ),
    ).fit()


class _ProgressCallback(tune.Callback):
    """Keeps the watcher informed and the tables up to date while Tune runs."""

    MERGE_SPACING_FACTOR = 20
    """Time between merges, in multiples of what the last one took: large tables are brought up to date less often."""

    def __init__(
        self,
        store: ResultStore,
        watcher: ProgressListener,
        fleet: LanePool,
        pace: BasicVariantGenerator,
        stopped: Set[str],
    ) -> None:
        self._store, self._listener, self._lane_pool, self._search_algorithm, self._stopped_keys = (
            store,
            watcher,
            fleet,
            pace,
            stopped,
        )
        self._next_merge_at = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """Empty: Tune pickles its callbacks for restoring, which isn't used here, and a terminal can't be pickled."""
        return {}

    def on_trial_result(
        self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._listener.on_epoch(trial_key(trial.config), result)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        ended = trial_key(trial.config)
        if (
            ended in self._stopped_keys
        ):  # its lane has yet to write its row; an earlier attempt may have left one
            self._listener.on_trial_end(ended, "stopped")
        else:
            self._listener.on_trial_end(
                ended, self._store.tables.trial_rows("trials", ended)[0]["status"]
            )

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
        started = time.monotonic()
        self._lane_pool.reconcile()
        self._search_algorithm.max_concurrent = max(
            1, self._lane_pool.size
        )  # one process for each trial that a lane can have
        if started >= self._next_merge_at:
            self._store.tables.merge()
            self._next_merge_at = time.monotonic() + max(
                2.0, self.MERGE_SPACING_FACTOR * (time.monotonic() - started)
            )
