"""Show a running experiment: a live table on a terminal, plain lines elsewhere."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bioimg.config import TrialConfig
from bioimg.tuning import recipe_of

STATUS_STYLES = {
    "completed": "green",
    "stopped": "yellow",
    "failed": "bold red",
    "running": "cyan",
    "waiting": "dim",
}
BEST_VALUE_HEADER = "so far"
BEST_VALUE_MARK = "best"
MIN_VISIBLE_TRIALS = 3
RESERVED_LINES = 4
"""Lines of the terminal that trials leave free, for instance for the table's header."""


def print_plain(console: Console, text: str, style: str | None = None) -> None:
    """Print a line as it is.

    A file name may look like rich's markup, and a wrapped line can't be copied.
    """
    console.print(text, style=style, markup=False, emoji=False, highlight=False, soft_wrap=True)


class ProgressTable:
    """Show a line per trial: settings, status, epoch, score on validation images, time left.

    Where fields are tuned, the trial is marked whose values are the best of its recipe so far.

    Args:
        trials: those that are known.
        axes: the fields in which they differ.
        statuses: of those that have ended, by key.
        console: where to show them.
        score_used: the score on validation images.
        tune: the tuned fields.
        expected_count: the number of trials, of which some become known later.
        lowest_losses: the validation losses of trials that have started, by key.
    """

    def __init__(
        self,
        trials: Iterable[TrialConfig],
        axes: Iterable[str],
        statuses: Mapping[str, str],
        console: Console,
        score_used: str,
        *,
        tune: Sequence[str] = (),
        expected_count: int = 0,
        lowest_losses: Mapping[str, float] | None = None,
    ) -> None:
        self._console = console
        self._tune = tune
        self._score_name = f"val {score_used.replace('_', ' ')}"
        self._axes = list(axes)
        self._lines = {
            trial.key: _TrialLine(trial, statuses.get(trial.key, "waiting")) for trial in trials
        }
        for key, loss in (lowest_losses or {}).items():
            if key in self._lines:
                self._lines[key].lowest_loss = loss
        self._total = max(expected_count, len(self._lines))
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
        """Show an epoch."""
        line = self._lines[key]
        line.update(epoch)
        if not self._console.is_terminal:
            self._print_trial_line(
                line,
                f"epoch {line.epochs_run}/{line.trial.epochs} "
                f"train loss {epoch['train_loss']:.4f} val loss {epoch['val_loss']:.4f} "
                f"{self._score_name} {epoch['val_score']:.3f}",
            )

    def on_trial_end(self, key: str, status: str) -> None:
        """Show how a trial ended."""
        line = self._lines[key]
        line.status = status
        if not self._console.is_terminal:
            self._print_trial_line(line, status)

    def on_message(self, text: str) -> None:
        """Print a message above the table."""
        print_plain(self._console, text)

    def set_state(self, key: str, epoch: Mapping[str, Any] | None, status: str) -> None:
        """Set what is known of a trial, without printing."""
        line = self._lines[key]
        if epoch:
            line.update(epoch)
        line.status = status

    def render(self) -> RenderableType:
        """Return a table of all trials, or of as many as fit on the terminal."""
        table = Table(box=None, pad_edge=False)
        for name in (*(self._axes or ["trial"]), "status"):
            table.add_column(name)
        for name in ("epoch", self._score_name, "left"):
            table.add_column(name, justify="right")
        if self._tune:
            table.add_column(BEST_VALUE_HEADER)
        visible = self._visible_lines()
        best_lines = self._best_lines() if self._tune else ()
        for line in visible:
            mark = [BEST_VALUE_MARK] if line in best_lines else []
            table.add_row(*line.cells(self._axes), *mark)
        hidden_count = len(self._lines) - len(visible)
        unknown_count = self._total - len(self._lines)
        footers = []
        if hidden_count:
            footers.append(Text(f"... more trials: {hidden_count}", style="dim"))
        if unknown_count:
            text = f"then {unknown_count} trials with the chosen values and other seeds"
            footers.append(Text(text, style="dim"))
        return Group(table, *footers) if footers else table

    def _best_lines(self) -> list["_TrialLine"]:
        """Return the line of each recipe and seed with the lowest validation loss so far.

        With a seed for which only one value runs, none is marked.
        """
        lines_by_recipe: defaultdict[tuple[Any, ...], list[_TrialLine]] = defaultdict(list)
        for line in self._lines.values():
            lines_by_recipe[*recipe_of(line.trial, self._tune), line.trial.seed].append(line)
        best = []
        for lines in lines_by_recipe.values():
            losses = {}
            for line in lines:
                if line.lowest_loss is not None and line.status != "failed":
                    losses[line] = line.lowest_loss
            if len(lines) > 1 and losses:
                best.append(min(losses, key=losses.__getitem__))
        return best

    def _print_trial_line(self, line: "_TrialLine", text: str) -> None:
        ended = sum(line.status not in ("waiting", "running") for line in self._lines.values())
        name = line.trial.format_fields(self._axes) or line.trial.key
        print_plain(self._console, f"[{ended}/{self._total}] {name}: {text}")

    def _visible_lines(self) -> list["_TrialLine"]:
        """Return all lines or, where they don't fit, running trials first, then waiting ones."""
        limit = max(MIN_VISIBLE_TRIALS, self._console.height - RESERVED_LINES)
        priority = {"running": 0, "waiting": 1}
        by_priority = sorted(
            self._lines.values(), key=lambda line: priority.get(line.status, len(priority))
        )
        chosen = by_priority[:limit]
        return [line for line in self._lines.values() if line in chosen]


class _TrialLine:
    """What is known of one trial."""

    def __init__(self, trial: TrialConfig, status: str) -> None:
        self.trial = trial
        self.status = status
        self.epochs_run = 0
        self.lowest_loss: float | None = None
        self._score = 0.0
        self._epoch_seconds = 0.0

    def update(self, epoch: Mapping[str, Any]) -> None:
        self.status = "running"
        self.epochs_run = epoch["epoch"]
        losses = [epoch["val_loss"], self.lowest_loss]
        self.lowest_loss = min(loss for loss in losses if loss is not None)
        self._score = epoch["val_score"]
        self._epoch_seconds = epoch["seconds"]

    def cells(self, axes: list[str]) -> list[RenderableType]:
        settings = [Text(str(getattr(self.trial, name))) for name in axes]
        return [
            *(settings or [Text(self.trial.key)]),
            Text(self.status, style=STATUS_STYLES[self.status]),
            f"{self.epochs_run}/{self.trial.epochs}" if self.epochs_run else "",
            f"{self._score:.3f}" if self.epochs_run else "",
            self._time_left(),
        ]

    def _time_left(self) -> str:
        if self.status != "running":
            return ""
        seconds = round(self._epoch_seconds * (self.trial.epochs - self.epochs_run))
        return f"{seconds // 60}:{seconds % 60:02d}"
