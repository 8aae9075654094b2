"""The client of the coordinator: the only place that knows that it is a Ray actor."""

from typing import Any, TypeVar

import ray
from ray.actor import ActorProxy
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from bioimg.cluster.coordinator import Coordinator, CoordinatorState, Job, TrialEnded
from bioimg.config import TrialConfig
from bioimg.errors import UserError
from bioimg.experiment import StopReason
from bioimg.results.schema import TrialStatus

MAX_WAITING_CALLS = 1000
"""Calls that may wait in the coordinator at the same time: one for each trial and worker."""

Answer = TypeVar("Answer")


class CoordinatorLostError(UserError):
    """The coordinator is lost, and with it the connection between Ray Tune and the lanes."""


class CoordinatorClient:
    """Call the coordinator from any process: a method for each one of `Coordinator`.

    Every method can raise:
        CoordinatorLostError: the coordinator is lost.
        LookupError: this lane was given up.
    """

    def __init__(self, actor: "ActorProxy[Coordinator]") -> None:
        self._actor: Any = actor  # its methods get `.remote` at run time, which no type describes

    def submit(self, key: str, trial: TrialConfig) -> None:
        """Queue a trial, unless it has been submitted before."""
        self._get(self._actor.submit.remote(key, trial))

    def register_lane(self, lane: int, devices: PlacementGroup | None) -> None:
        """Record what holds the devices of a lane."""
        self._get(self._actor.register_lane.remote(lane, devices))

    def next_trial(self, lane: int) -> Job | None:
        """Assign the next trial to a lane and return it. Return None if there is none left."""
        return self._get(self._actor.next_trial.remote(lane))

    def report_epoch(self, lane: int, epoch: dict[str, Any], wait: bool) -> StopReason | None:
        """Pass an epoch on to Tune and return why the trial must stop, or None."""
        return self._get(self._actor.report_epoch.remote(lane, epoch, wait))

    def end_trial(self, lane: int, status: TrialStatus) -> None:
        """Record that a lane has ended its trial."""
        self._get(self._actor.end_trial.remote(lane, status))

    def mark_lane_lost(self, lane: int, reason: str) -> PlacementGroup | None:
        """Give up a lane. Another one gets its trial. Return what holds the lane's devices."""
        return self._get(self._actor.mark_lane_lost.remote(lane, reason))

    def all_raised_same_error(
        self, lane: int, rank: int, workers: int, error: str, timeout: float
    ) -> bool:
        """Record a worker's error and return True if all workers of its lane raised the same."""
        answer = self._actor.all_raised_same_error.remote(lane, rank, workers, error, timeout)
        return self._get(answer)

    def wait_until_idle(self, lane: int) -> None:
        """Return when a lane has no trial."""
        self._get(self._actor.wait_until_idle.remote(lane))

    def next_report(self, key: str) -> dict[str, Any] | TrialEnded:
        """Return a trial's oldest report that isn't acknowledged."""
        return self._get(self._actor.next_report.remote(key))

    def stop_trial(self, key: str, reason: StopReason) -> None:
        """Record Tune's decision to stop a trial."""
        self._get(self._actor.stop_trial.remote(key, reason))

    def acknowledge(self, key: str, epoch: int) -> None:
        """Record that Tune has received an epoch of a trial and lets the trial continue."""
        self._get(self._actor.acknowledge.remote(key, epoch))

    def add_message(self, text: str) -> None:
        """Keep a message of a lane for the user."""
        self._get(self._actor.add_message.remote(text))

    def take_messages(self) -> list[str]:
        """Return the messages since the last call."""
        return self._get(self._actor.take_messages.remote())

    def state(self, timeout: float) -> CoordinatorState:
        """Return how many trials are left, and how many lanes in a row were lost while idle.

        A coordinator that doesn't answer within `timeout` seconds is killed, so that all calls
        that wait for it fail.
        """
        return self._get(self._actor.state.remote(), timeout)

    def close(self) -> None:
        """End the coordinator, which Tune's copy of this client would keep alive."""
        # without Ray it has ended, and Ray's function would start another Ray
        if ray.is_initialized():
            ray.kill(self._actor)

    def _get(self, answer: "ray.ObjectRef[Answer]", timeout: float | None = None) -> Answer:
        try:
            return ray.get(answer, timeout=timeout)
        except RayTaskError:  # the coordinator's own error
            raise
        except RayError as error:
            if isinstance(error, GetTimeoutError):
                ray.kill(self._actor)
            raise CoordinatorLostError(
                "the coordinator, the process between Ray Tune and the lanes, was lost: it was "
                "killed, hangs, or its machine ran out of memory. All trials are saved, so "
                "run the same command again to resume."
            ) from error


def start_coordinator(trials: int) -> CoordinatorClient:
    """Start a coordinator for this many trials and return its client.

    It needs no device, and it runs on this machine, since others may come and go.
    """
    this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor_class = ray.remote(Coordinator).options(
        num_cpus=0, max_concurrency=MAX_WAITING_CALLS, scheduling_strategy=this_node
    )
    return CoordinatorClient(actor_class.remote(trials))
