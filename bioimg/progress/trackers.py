"""Trackers that a lab may run already: every epoch is also sent to MLflow or Weights & Biases.

Each reads its destination from its own variables (MLFLOW_TRACKING_URI, WANDB_...). A trial is one
run there, named by its key, with the trial's settings as its parameters.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from bioimg.config import TrialConfig
from bioimg.errors import UserError
from bioimg.progress.listener import named_metrics

if TYPE_CHECKING:
    import wandb


class TrackerListener(Protocol):
    """A progress listener that has to be closed."""

    def on_epoch(self, key: str, epoch: Mapping[str, Any]) -> None: ...

    def on_trial_end(self, key: str, status: str) -> None: ...

    def on_message(self, text: str) -> None: ...

    def close(self) -> None: ...


def check_trackers_installed(trackers: Sequence[str]) -> None:
    """Check that trackers are installed.

    Raises:
        UserError: one isn't.
    """
    for tracker in trackers:
        if importlib.util.find_spec(tracker) is None:
            raise UserError(
                f"the value of `track` is {tracker!r}, but that package isn't installed. Install "
                f"it with `pip install '.[{tracker}]'`, or leave out --track."
            )


@contextlib.contextmanager
def open_trackers(
    trackers: Sequence[str],
    experiment_name: str,
    trials: Iterable[TrialConfig],
    score_used: str,
) -> Iterator[list[TrackerListener]]:
    """Yield a listener for each tracker, and close them at the end.

    Raises:
        UserError: a tracker can't be reached.
    """
    listener_types = {"mlflow": MLflowListener, "wandb": WandbListener}
    settings = {trial.key: dataclasses.asdict(trial) for trial in trials}
    with contextlib.ExitStack() as stack:
        listeners: list[TrackerListener] = []
        for tracker in trackers:
            listener = listener_types[tracker](experiment_name, settings, score_used)
            listeners.append(stack.enter_context(contextlib.closing(listener)))
        yield listeners


class MLflowListener:
    """Send each trial to MLflow as a run of the experiment's name.

    Raises:
        UserError: MLflow can't be reached.
    """

    def __init__(
        self, experiment_name: str, settings: Mapping[str, Mapping[str, Any]], score_used: str
    ) -> None:
        from mlflow import MlflowClient

        self._experiment_name = experiment_name
        self._settings = settings
        self._score_used = score_used
        with _explain_errors("mlflow"):
            self._client = MlflowClient()
        self._run_ids: dict[str, str] = {}
        self._ended_keys: set[str] = set()

    @functools.cached_property
    def _experiment_id(self) -> str:
        experiment = self._client.get_experiment_by_name(self._experiment_name)
        if experiment:
            return experiment.experiment_id
        return self._client.create_experiment(self._experiment_name)

    def on_epoch(self, key: str, epoch: Mapping[str, Any]) -> None:
        """Send the metrics of an epoch."""
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        metrics = [
            Metric(name, value, now, epoch["epoch"])
            for name, value in named_metrics(epoch, self._score_used).items()
        ]
        with _explain_errors("mlflow"):
            self._client.log_batch(self._run_id(key), metrics=metrics)

    def on_trial_end(self, key: str, status: str) -> None:
        """End the run of a trial. A status that is corrected later replaces the first one."""
        with _explain_errors("mlflow"):
            self._client.set_tag(self._run_id(key), "status", status)
            self._client.set_terminated(
                self._run_id(key), "FAILED" if status == "failed" else "FINISHED"
            )
        self._ended_keys.add(key)

    def on_message(self, text: str) -> None:
        """Do nothing: a tracker shows trials only."""

    def close(self) -> None:
        """End the runs of trials that haven't ended: the session was interrupted."""
        with contextlib.suppress(UserError), _explain_errors("mlflow"):
            for key in self._run_ids.keys() - self._ended_keys:
                self._client.set_terminated(self._run_ids[key], "KILLED")

    def _run_id(self, key: str) -> str:
        """Return the id of a trial's run, which is created the first time."""
        from mlflow.entities import Param

        if key not in self._run_ids:
            run = self._client.create_run(self._experiment_id, run_name=key)
            self._run_ids[key] = run.info.run_id
            params = [Param(name, str(value)) for name, value in self._settings[key].items()]
            self._client.log_batch(run.info.run_id, params=params)
        return self._run_ids[key]


class WandbListener:
    """Send each trial to Weights & Biases as a run of the project bioimg, grouped by experiment.

    Raises:
        UserError: it can't be reached, or there is no key for it.
    """

    def __init__(
        self, experiment_name: str, settings: Mapping[str, Mapping[str, Any]], score_used: str
    ) -> None:
        self._experiment_name = experiment_name
        self._settings = settings
        self._score_used = score_used
        self._runs: dict[str, wandb.Run] = {}
        self._ended_keys: set[str] = set()

    def on_epoch(self, key: str, epoch: Mapping[str, Any]) -> None:
        """Send the metrics of an epoch."""
        metrics = named_metrics(epoch, self._score_used)
        with _explain_errors("wandb"):
            self._run(key).log(metrics, step=epoch["epoch"])

    def on_trial_end(self, key: str, status: str) -> None:
        """End the run of a trial. A run that has ended can't be changed any more."""
        if key in self._ended_keys:
            return
        with _explain_errors("wandb"):
            run = self._run(key)
            run.summary["status"] = status
            run.finish(exit_code=int(status == "failed"))
        self._ended_keys.add(key)

    def on_message(self, text: str) -> None:
        """Do nothing: a tracker shows trials only."""

    def close(self) -> None:
        """End the runs of trials that haven't ended: the session was interrupted."""
        with contextlib.suppress(UserError), _explain_errors("wandb"):
            for key in self._runs.keys() - self._ended_keys:
                self._runs[key].finish(exit_code=1)

    def _run(self, key: str) -> "wandb.Run":
        """Return a trial's run, which is created the first time. Several can be open together."""
        import wandb

        if key not in self._runs:
            self._runs[key] = wandb.init(
                project="bioimg",
                group=self._experiment_name,
                name=key,
                config=dict(self._settings[key]),
                reinit="create_new",
                settings=wandb.Settings(silent=True, console="off"),
            )
        return self._runs[key]


@contextlib.contextmanager
def _explain_errors(tracker: str) -> Iterator[None]:
    """Turn a tracker's own errors into one for the user.

    Raises:
        UserError: the tracker raised one.
    """
    if tracker == "mlflow":
        from mlflow.exceptions import MlflowException as TrackerError
    else:
        from wandb.errors import Error as TrackerError
    try:
        yield
    except (TrackerError, OSError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(
            f"the value of `track` is {tracker!r}, but it can't be written to: {reason}. All "
            "reported epochs are saved, so run the same command again to resume, or leave out "
            "--track."
        ) from error
