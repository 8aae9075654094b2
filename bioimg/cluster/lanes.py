"""Lanes: warm groups of Ray Train workers, each one `TorchTrainer` for a whole experiment.

A TorchTrainer for every trial, the documented way, costs its start again and again. A lane takes one trial after another from
the board, so that processes, weights, features and images stay where they are.
"""

import dataclasses
import os
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Train looks after its workers at this interval; with its own default of 2 s a dead one is seen late
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # a process less

import ray
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, get_context
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from bioimg.cluster.board import Job
from bioimg.config import TrialConfig
from bioimg.data.imageset import ImageSet
from bioimg.experiment import Stop
from bioimg.results.store import Store
from bioimg.training.distributed import Group
from bioimg.training.run import Epoch
from bioimg.training.trial import Place, give_up, run_trial

ATTEMPTS = 3
"""How often a lane takes the same trial before it is recorded as failed: a trial that kills its worker isn't tried for ever."""
RESTARTS = 100
"""How often a lane's workers are started again."""


@dataclass(frozen=True, kw_only=True)
class Lane:
    """What the workers of a lane need to know. `images` refers to what each trial sees."""

    number: int
    workers: int
    gpu: bool
    threads: int
    board: Any
    images: dict[str, ray.ObjectRef]
    experiment: str
    folder: str
    stands_in: str
    """The folder in which the user gave relative paths."""
    rungs: dict[int, tuple[int, ...]]
    """Epochs after which a trial waits for Tune's decision, for each number of epochs that a trial may have."""


def start(lane: Lane) -> Future[None]:
    """Start a lane. The future is done when the lane has nothing left to do; its exception says why the lane was given up.

    `fit` only waits for Ray Train's controller, an actor of its own, so a thread does.
    """
    trainer = TorchTrainer(
        _work,
        train_loop_config={"lane": lane},
        torch_config=TorchConfig(backend="nccl" if lane.gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=lane.workers, use_gpu=lane.gpu, resources_per_worker=resources(lane.gpu)),
        run_config=RunConfig(
            name=f"lane-{lane.number}",
            storage_path=Store(lane.folder).engine,
            failure_config=FailureConfig(max_failures=RESTARTS),
        ),
    )
    ended: Future[None] = Future()

    def fit() -> None:
        try:
            trainer.fit()
            ended.set_result(None)
        except BaseException as error:
            if ray.is_initialized():  # else this is the end of the program, and the call would start another Ray
                lane.board.give_back.remote(lane.number)
            ended.set_exception(error)

    threading.Thread(target=fit, name=f"lane-{lane.number}", daemon=True).start()
    return ended


def resources(gpu: bool) -> dict[str, float]:
    """What Ray sets aside for one worker."""
    return {"CPU": 1, "GPU": 1} if gpu else {"CPU": 1}


def _work(config: dict[str, Lane]) -> None:
    """One worker: take trials until there are none."""
    lane, context = config["lane"], get_context()
    torch.set_num_threads(lane.threads)
    if Path(lane.stands_in).is_dir():
        os.chdir(lane.stands_in)
    group = Group(context.get_world_rank(), context.get_world_size())
    place = Place(experiment=lane.experiment, store=Store(lane.folder), device=get_device(), group=group)

    def take() -> Job | None:
        return group.broadcast(ray.get(lane.board.take.remote(lane.number)) if group.rank == 0 else None)

    while job := take():
        status = _run(job, place, lane)
        if group.rank == 0:
            ray.get(lane.board.end.remote(lane.number, job.key, status))


def _run(job: Job, place: Place, lane: Lane) -> str:
    trial = TrialConfig(**job.trial)
    images: ImageSet = ray.get(lane.images[job.key])  # shared memory: nothing is copied
    if job.attempts > ATTEMPTS:
        reason = RuntimeError(f"its worker died {ATTEMPTS} times while at it; what it said last is in Ray's logs")
        return give_up(trial, images, place, reason)

    def judge(epoch: Epoch) -> Stop | None:
        wait = epoch.epoch in lane.rungs[trial.epochs]
        report = lane.board.report
        mine: Stop | None = ray.get(report.remote(job.key, dataclasses.asdict(epoch), wait)) if place.group.rank == 0 else None
        return place.group.broadcast(mine)

    return run_trial(trial, images, place, judge)
