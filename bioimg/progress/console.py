"""What a person sees while an experiment runs: a live table on a terminal, plain lines elsewhere."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bioimg.config import TrialConfig

STATUS_STYLES = {
    "completed": "green",
    "stopped": "yellow",
    "failed": "bold red",
    "running": "cyan",
    "waiting": "dim",
}


def print_plain(console: Console, text: str, style: str | None = None) -> None:
    """Print a line as it is: a file name may look like rich's markup, and a wrapped line can't be copied."""
    console.print(text, style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)


class ProgressTable:
    """One line per trial: cell, status, epoch, validation accuracy, time left."""

    def __init__(
        self,
        trials: Iterable[TrialConfig],
        axes: Iterable[str],
        statuses: Mapping[str, str],
        console: Console,
    ) -> None:
        self._console, self._axes = console, list(axes)
        self._lines = {
            trial.key: _TrialLine(trial, statuses.get(trial.key, "waiting")) for trial in trials
        }
        self._live = Live(
            get_renderable=self.render,
            console=console,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
        )

    def __enter__(self) -> "ProgressTable":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def on_epoch(self, key: str, epoch: Mapping[str, Any]) -> None:
        line = self._lines[key]
        line.update(epoch)
        if not self._console.is_terminal:
            self._print_trial_line(
                line,
                f"epoch {line.epochs_run}/{line.trial.epochs} train loss {epoch['train_loss']:.4f} "
                f"val loss {epoch['val_loss']:.4f} val accuracy {epoch['val_accuracy']:.3f}",
            )

    def on_trial_end(self, key: str, status: str) -> None:
        self._lines[key].status = status
        if not self._console.is_terminal:
            self._print_trial_line(self._lines[key], status)

    def on_message(self, text: str) -> None:
        print_plain(self._console, text)

    def _print_trial_line(self, line: "_TrialLine", text: str) -> None:
        ended = sum(line.status not in ("waiting", "running") for line in self._lines.values())
        cell = line.trial.format_fields(self._axes) or line.trial.key
        print_plain(self._console, f"[{ended}/{len(self._lines)}] {cell}: {text}")

    def set_state(self, key: str, epoch: Mapping[str, Any] | None, status: str) -> None:
        """Set what is known of a trial, without printing."""
        if epoch:
            self._lines[key].update(epoch)
        self._lines[key].status = status

    def render(self) -> RenderableType:
        """All trials, or as many as fit on the terminal."""
        shown = self._visible_lines()
        table = Table(box=None, pad_edge=False)
        for name in (*(self._axes or ["trial"]), "status", "epoch", "val accuracy", "left"):
            table.add_column(
                name, justify="right" if name in ("epoch", "val accuracy", "left") else "left"
            )
        for line in shown:
            table.add_row(*line.cells(self._axes))
        hidden = len(self._lines) - len(shown)
        return Group(table, Text(f"... more trials: {hidden}", style="dim")) if hidden else table

    def _visible_lines(self) -> list["_TrialLine"]:
        """All lines, or, where they don't fit, running trials first, then waiting ones, then the rest."""
        room = max(3, self._console.height - 4)
        order = {"running": 0, "waiting": 1}
        first = sorted(self._lines.values(), key=lambda line: order.get(line.status, 2))[:room]
        return [line for line in self._lines.values() if line in first]


class _TrialLine:
    def __init__(self, trial: TrialConfig, status: str) -> None:
        self.trial, self.status = trial, status
        self.epochs_run, self._accuracy, self._epoch_seconds = 0, 0.0, 0.0

    def update(self, epoch: Mapping[str, Any]) -> None:
        self.status, self.epochs_run = "running", epoch["epoch"]
        self._accuracy, self._epoch_seconds = epoch["val_accuracy"], epoch["seconds"]

    def cells(self, axes: list[str]) -> list[RenderableType]:
        values = [Text(str(getattr(self.trial, name))) for name in axes] or [Text(self.trial.key)]
        return [
            *values,
            Text(self.status, style=STATUS_STYLES[self.status]),
            f"{self.epochs_run}/{self.trial.epochs}" if self.epochs_run else "",
            f"{self._accuracy:.3f}" if self.epochs_run else "",
            self._time_left(),
        ]

    def _time_left(self) -> str:
        if self.status != "running":
            return ""
        seconds = round(self._epoch_seconds * (self.trial.epochs - self.epochs_run))
        return f"{seconds // 60}:{seconds % 60:02d}"
