"""The command `bioimg status`: the progress of an experiment, from its folder alone.

It needs no Ray and doesn't disturb a running session.
"""

import contextlib
import datetime
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text
from tyro.conf import Positional, arg

from bioimg.config import TrialConfig
from bioimg.experiment import Experiment
from bioimg.progress.console import STATUS_STYLES, ProgressTable
from bioimg.results.epoch_summary import has_later_epochs
from bioimg.tuning import expected_count, wanted_trials

if TYPE_CHECKING:
    from bioimg.results.result_store import ResultStore

REFRESH_S = 2.0
"""Seconds between two refreshes."""


@dataclass(frozen=True, kw_only=True)
class StatusCommand:
    """Show the status of each trial, its latest scores and the approximate time left."""

    folder: Annotated[str, Positional, arg(metavar="RESULTS")]
    """Results folder, such as results/grid or s3://bucket/grid"""
    watch: bool = False
    """Refresh every two seconds until the session ends"""

    def run(self) -> int:
        """Print the status. Return the exit code.

        Raises:
            UserError: there are no results in the folder.
        """
        from bioimg.results.result_store import ResultStore

        store = ResultStore(self.folder)
        console = Console()
        view = read_status(store, console)
        if self.watch and view.holder:
            view = _watch_session(store, console, view)
        console.print(view.renderable)
        return 0


@dataclass(frozen=True, kw_only=True)
class StatusView:
    """The state of a results folder.

    renderable: what to show.
    holder:     the session that writes to the folder, if any.
    """

    renderable: RenderableType
    holder: Mapping[str, Any] | None


def read_status(store: "ResultStore", console: Console) -> StatusView:
    """Read the progress of every trial."""
    from bioimg.storage.folder_lock import current_holder

    manifest = store.read_manifest()
    holder = current_holder(store.storage)
    experiment = _recorded_experiment(manifest)
    latest_epochs = store.tables.last_epochs()
    trials = wanted_trials(experiment, store.tables.all_rows("trials"))
    statuses = _read_statuses(store, trials, latest_epochs, is_running=holder is not None)
    table = ProgressTable(
        trials,
        experiment.axes,
        {},
        console,
        store.score_used,
        tune=experiment.tune,
        expected_count=expected_count(experiment),
        lowest_losses=store.tables.lowest_losses(),
    )
    for trial in trials:
        table.set_state(trial.key, latest_epochs.get(trial.key), statuses[trial.key])
    remaining = seconds_left(trials, statuses, latest_epochs)
    summary = _summary_line(statuses, remaining)
    renderable = Group(table.render(), summary, _session_line(manifest, holder))
    return StatusView(renderable=renderable, holder=holder)


def _recorded_experiment(manifest: Mapping[str, Any]) -> Experiment:
    """Return the experiment of experiment.json; earlier versions tuned nothing."""
    return Experiment(
        name=manifest["name"],
        base=TrialConfig(**manifest["base"]),
        axes={name: tuple(values) for name, values in manifest["axes"].items()},
        tune=tuple(manifest.get("tune", ())),
        tune_seeds=manifest.get("tune_seeds", 1),
    )


def seconds_left(
    trials: Sequence[TrialConfig],
    statuses: Mapping[str, str],
    latest_epochs: Mapping[str, Mapping[str, Any]],
) -> float | None:
    """Estimate the seconds for the remaining epochs; None if no epoch has been timed.

    The estimate assumes that as many trials run at once as now. An epoch counts as long as the
    trial's last one, or else as the mean of trials with the same `freeze`, or else of all. It
    doesn't foresee what early stopping will save.
    """
    if not any(trial.key in latest_epochs for trial in trials):
        return None
    seconds = 0.0
    for trial in trials:
        if statuses[trial.key] in ("running", "waiting"):
            epochs_run = latest_epochs.get(trial.key, {"epoch": 0})["epoch"]
            epoch_seconds = _expected_epoch_seconds(trial, trials, latest_epochs)
            seconds += epoch_seconds * (trial.epochs - epochs_run)
    running = sum(status == "running" for status in statuses.values())
    return seconds / max(1, running)


def _watch_session(store: "ResultStore", console: Console, view: StatusView) -> StatusView:
    """Refresh the status until the session ends or the user interrupts. Return the last one."""
    with (
        contextlib.suppress(KeyboardInterrupt),
        Live(view.renderable, console=console, transient=True) as live,
    ):
        while view.holder:
            time.sleep(REFRESH_S)
            view = read_status(store, console)
            live.update(view.renderable)
    return view


def _read_statuses(
    store: "ResultStore",
    trials: Iterable[TrialConfig],
    latest_epochs: Mapping[str, Mapping[str, Any]],
    *,
    is_running: bool,
) -> dict[str, str]:
    # a row that is older than the trial's latest epoch is of an earlier attempt
    ended = {
        row["key"]: row["status"]
        for row in store.tables.all_rows("trials")
        if not has_later_epochs(row, latest_epochs.get(row["key"]))
    }
    statuses = {}
    for trial in trials:
        has_started = trial.key in latest_epochs
        unfinished = "running" if is_running and has_started else "waiting"
        statuses[trial.key] = ended.get(trial.key, unfinished)
    return statuses


def _expected_epoch_seconds(
    trial: TrialConfig,
    trials: Iterable[TrialConfig],
    latest_epochs: Mapping[str, Mapping[str, Any]],
) -> float:
    if trial.key in latest_epochs:
        return latest_epochs[trial.key]["seconds"]
    timed = [other for other in trials if other.key in latest_epochs]
    similar = [other for other in timed if other.freeze == trial.freeze]
    return statistics.fmean(latest_epochs[other.key]["seconds"] for other in similar or timed)


def _summary_line(statuses: Mapping[str, str], remaining: float | None) -> Text:
    counts = Counter(statuses.values())
    count_texts = [
        Text(f"{counts[name]} {name}", style=style)
        for name, style in STATUS_STYLES.items()
        if counts[name]
    ]
    plural = "" if len(statuses) == 1 else "s"
    line = Text(f"{len(statuses)} trial{plural}: ")
    line.append_text(Text(", ").join(count_texts))
    if remaining:
        line.append(f"; about {datetime.timedelta(seconds=round(remaining))} left")
    return line


def _session_line(manifest: Mapping[str, Any], holder: Mapping[str, Any] | None) -> Text:
    if holder:
        return Text(
            f"Running since {holder['since']}: process {holder['pid']} on {holder['host']}."
        )
    if manifest["complete"]:
        return Text("Complete.")
    return Text("No run is active here. Repeat the original command to resume.", style="yellow")
