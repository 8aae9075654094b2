"""Ray Tune decides which trials continue."""

import functools
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # the store is the record; Tune's own files can lose rows
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C ends the program, not only the trial
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the newer output prints at any verbosity

import ray
from ray import tune
from ray.tune.search.basic_variant import BasicVariantGenerator

from bioimg.cluster import doctor, session, trackers
from bioimg.cluster.board import open_board
from bioimg.cluster.cohorts import Cohorts
from bioimg.cluster.fleet import PAUSE, Fleet
from bioimg.cluster.follow import follow, key, pack
from bioimg.cluster.lanes import Lane
from bioimg.config import TrialConfig, UserError
from bioimg.data.imageset import ImageSet
from bioimg.experiment import Experiment
from bioimg.halving import earlier
from bioimg.progress import Watcher
from bioimg.results.store import Store


def executor(trials: Iterable[TrialConfig], lane_count: int | None, track: Sequence[str] = ()) -> Callable[..., None]:
    """`run` on at most so many lanes, by default as many as there are devices for, after checking that there are enough or, on
    a cluster that can grow, that there can be.

    Raises:
        UserError: more workers, or lanes of workers, than devices; trials that differ in their workers; a tracker that isn't
            installed.
    """
    trackers.check(track)
    joined = session.connect()
    kind, available = session.devices()
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
            + (" If more machines will join this one, set --lanes to the number of lanes to wait for." if joined else "")
        )
    return functools.partial(run, limit=lane_count, gpu=kind == "GPU", track=track)


def run(
    experiment: Experiment,
    trials: Sequence[TrialConfig],
    images: Mapping[TrialConfig, ImageSet],
    store: Store,
    watcher: Watcher,
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
    with store.log() as log, session.telling(log), session.losses_told():
        session.start()
        doctor.check(doctor.uri(store.place))
        lane, rule = _lane(experiment, trials, images, store, gpu), experiment.early_stopping
        scheduler = Cohorts(rule, earlier(store, trials), lane.board) if rule else None
        with Fleet(lane, trials=len(trials), limit=limit, say=watcher.say) as fleet:
            pace = BasicVariantGenerator(max_concurrent=1)
            stopped = scheduler.stopped if scheduler else set()
            told = [_Relay(store, watcher, fleet, pace, stopped), *trackers.callbacks(track, experiment.name)]
            _tune(trials, scheduler, lane.board, told, store.engine, pace)
            while not fleet.done:
                fleet.tend()
                time.sleep(PAUSE)
        for ended, status in store.tables.statuses().items():
            if ended in stopped and status != "stopped":  # patience had ended it as well, or it failed before it could stop
                watcher.end(ended, status)


def _lane(
    experiment: Experiment,
    trials: Sequence[TrialConfig],
    images: Mapping[TrialConfig, ImageSet],
    store: Store,
    gpu: bool,
) -> Lane:
    """What all lanes have in common."""
    rule = experiment.early_stopping
    needed = {id(images[trial]): images[trial] for trial in trials}
    sets = {number: ray.put(seen) for number, seen in needed.items()}
    return Lane(
        number=0,
        workers=trials[0].workers,
        gpu=gpu,
        board=open_board(len(trials)),
        images={trial.key: sets[id(images[trial])] for trial in trials},
        experiment=experiment.name,
        folder=store.place,
        run=store.run,
        stands_in=str(Path.cwd()),
        rungs={trial.epochs: rule.rungs(trial.epochs) if rule else () for trial in trials},
    )


def _tune(
    trials: Sequence[TrialConfig],
    scheduler: Cohorts | None,
    board: Any,
    told: list[tune.Callback],
    folder: str,
    pace: BasicVariantGenerator,
) -> None:
    here = {f"node:{ray.util.get_node_ip_address()}": 1e-4}  # other machines come and go, and are kept while in use
    tune.Tuner(
        tune.with_resources(tune.with_parameters(follow, board=board), {"memory": 1e8, **here}),
        param_space={"trial": tune.grid_search([pack(trial) for trial in trials])},
        tune_config=tune.TuneConfig(
            scheduler=scheduler,
            search_alg=pace,
            reuse_actors=True,
            trial_name_creator=lambda trial: key(trial.config),
            trial_dirname_creator=lambda trial: key(trial.config),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=folder,
            verbose=0,
            callbacks=told,
            failure_config=tune.FailureConfig(max_failures=-1),  # of a process that only relays
        ),
    ).fit()


class _Relay(tune.Callback):
    """Keeps the watcher informed and the tables up to date while Tune runs."""

    SPACING = 20
    """Time between merges, in multiples of what the last one took: large tables are brought up to date less often."""

    def __init__(self, store: Store, watcher: Watcher, fleet: Fleet, pace: BasicVariantGenerator, stopped: Set[str]) -> None:
        self._store, self._watcher, self._fleet, self._pace, self._stopped = store, watcher, fleet, pace, stopped
        self._next_merge = 0.0

    def __getstate__(self) -> dict[str, Any]:
        """Empty: Tune pickles its callbacks for restoring, which isn't used here, and a terminal can't be pickled."""
        return {}

    def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: dict[str, Any], **info: Any) -> None:
        self._watcher.epoch(key(trial.config), result)

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
        ended = key(trial.config)
        if ended in self._stopped:  # its lane has yet to write its row; an earlier attempt may have left one
            self._watcher.end(ended, "stopped")
        else:
            self._watcher.end(ended, self._store.tables.rows("trials", ended)[0]["status"])

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:
        started = time.monotonic()
        self._fleet.tend()
        self._pace.max_concurrent = max(1, self._fleet.size)  # one process for each trial that a lane can have
        if started >= self._next_merge:
            self._store.tables.merge()
            self._next_merge = time.monotonic() + max(2.0, self.SPACING * (time.monotonic() - started))
