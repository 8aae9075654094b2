"""The command `bioimg status`: the progress of an experiment, from its folder alone. Needs no Ray and disturbs no run."""

import contextlib
import datetime
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text
from tyro.conf import FlagCreatePairsOff, Positional, arg

from bioimg.config import TrialConfig
from bioimg.experiment import Experiment
from bioimg.progress.console import STATUS_STYLES, ProgressTable
from bioimg.results.epoch_summary import has_later_epochs

if TYPE_CHECKING:
    from bioimg.results.result_store import ResultStore

REFRESH_S = 2.0
"""Seconds between two refreshes."""


@dataclass(frozen=True, kw_only=True)
class StatusCommand:
    """Show which trials are done, running, waiting and failed, with the latest scores and the approximate time left."""

    folder: Annotated[str, Positional, arg(metavar="RESULTS")]
    """a folder of results, such as results/grid or s3://bucket/grid"""
    watch: FlagCreatePairsOff[bool] = False
    """refresh every two seconds until the run ends"""

    def run(self) -> int:
        """Print it; 0.

        Raises:
            UserError: no results there.
        """
        from bioimg.results.result_store import ResultStore

        store, console = ResultStore(self.folder), Console()
        seen = read_status(store, console)
        if self.watch and seen.holder:
            with (
                contextlib.suppress(KeyboardInterrupt),
                Live(seen.renderable, console=console, transient=True) as live,
            ):
                while seen.holder:
                    time.sleep(REFRESH_S)
                    seen = read_status(store, console)
                    live.update(seen.renderable)
        console.print(seen.renderable)
        return 0


@dataclass(frozen=True, kw_only=True)
class StatusView:
    """The state of a folder: what to show, and which run writes there, if any."""

    renderable: RenderableType
    holder: Mapping[str, Any] | None


def read_status(store: "ResultStore", console: Console) -> StatusView:
    """Read the progress of every trial."""
    from bioimg.storage.folder_lock import current_holder

    about, holder = store.read_manifest(), current_holder(store.storage)
    axes = {name: tuple(values) for name, values in about["axes"].items()}
    trials = Experiment(name=about["name"], base=TrialConfig(**about["base"]), axes=axes).trials()
    latest = store.tables.last_epochs()
    ended = {
        row["key"]: row["status"]
        for row in store.tables.all_rows("trials")
        if not has_later_epochs(row, latest.get(row["key"]))
    }
    begun = "running" if holder else "waiting"
    statuses = {
        trial.key: ended.get(trial.key, begun if trial.key in latest else "waiting")
        for trial in trials
    }
    progress = ProgressTable(trials, axes, {}, console)
    for trial in trials:
        progress.set_state(trial.key, latest.get(trial.key), statuses[trial.key])
    rest = seconds_left(trials, statuses, latest)
    return StatusView(
        renderable=Group(
            progress.render(), _summary_line(statuses, rest), _session_line(about, holder)
        ),
        holder=holder,
    )


def seconds_left(
    trials: Iterable[TrialConfig],
    statuses: Mapping[str, str],
    latest: Mapping[str, Mapping[str, Any]],
) -> float | None:
    """Seconds for the remaining epochs, with as many trials at once as run now; None if no epoch has been timed.

    An epoch is assumed to take as long as the trial's last one, or else the mean of trials with the same `freeze`, or else of
    all. What early stopping will save isn't known.
    """
    trials = list(trials)
    timed = [
        (trial.freeze, latest[trial.key]["seconds"]) for trial in trials if trial.key in latest
    ]
    if not timed:
        return None

    def epoch(trial: TrialConfig) -> float:
        if trial.key in latest:
            return latest[trial.key]["seconds"]
        alike = [seconds for freeze, seconds in timed if freeze == trial.freeze] or [
            seconds for _, seconds in timed
        ]
        return sum(alike) / len(alike)

    due = [trial for trial in trials if statuses[trial.key] in ("running", "waiting")]
    left = sum(
        epoch(trial) * (trial.epochs - latest.get(trial.key, {"epoch": 0})["epoch"])
        for trial in due
    )
    return left / max(1, sum(status == "running" for status in statuses.values()))


def _summary_line(statuses: Mapping[str, str], rest: float | None) -> Text:
    counts = Counter(statuses.values())
    said = Text(f"{len(statuses)} trial{'s' if len(statuses) != 1 else ''}: ")
    said.append_text(
        Text(", ").join(
            Text(f"{counts[name]} {name}", style=STATUS_STYLES[name])
            for name in STATUS_STYLES
            if counts[name]
        )
    )
    if rest:
        said.append(f"; about {datetime.timedelta(seconds=round(rest))} left")
    return said


def _session_line(about: Mapping[str, Any], holder: Mapping[str, Any] | None) -> Text:
    if holder:
        return Text(
            f"Running since {holder['since']}: process {holder['pid']} on {holder['host']}."
        )
    if about["complete"]:
        return Text("Complete.")
    return Text("No run is active here. Repeat the original command to resume.", style="yellow")
