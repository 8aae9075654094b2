"""How a trial's line is told from the others': one axis by colour, one by line style, the rest by the panel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

MOST_LINES = 48
"""Curves drawn together in a figure or on the page: those of the trials with the lowest validation loss."""
LINE_STYLES = 4
PANELS = 6
"""Figures and page show no more panels than these, those with the best trials."""


@dataclass(frozen=True)
class Encoding:
    """Twelve trials in twelve colours are a riddle; the axes of the grid, each in its own way, are read at once.

    colour, line: a field of `TrialConfig`, or None.
    panel:        the fields whose values make a panel.
    values:       of each of these fields its values, as text, in the order of the table.
    """

    colour: str | None
    line: str | None
    panel: tuple[str, ...]
    values: Mapping[str, list[str]]

    def code(self, trial: pd.Series) -> tuple[int, int]:
        """The positions of a trial's values among those told by colour and by line style."""
        first, second = (self.values[name].index(str(trial[name])) if name else 0 for name in (self.colour, self.line))
        return first, second

    def panels(self, trials: pd.DataFrame) -> list[pd.DataFrame]:
        """The trials of each panel, in the order of the trials."""
        if not self.panel:
            return [trials]
        parts: Any = trials.groupby(list(self.panel), sort=False, dropna=False)
        return [part for _, part in parts][:PANELS]


def encode(trials: pd.DataFrame, axes: Sequence[str]) -> Encoding:
    """Give the axis with most values the colours, the next one the line styles, and the rest the panels."""
    values = {axis: list(trials[axis].astype(str).unique()) for axis in axes}
    ordered = sorted(axes, key=lambda axis: -len(values[axis]))
    colour = ordered[0] if ordered else None
    line = next((axis for axis in ordered[1:] if len(values[axis]) <= LINE_STYLES), None)
    return Encoding(colour, line, tuple(axis for axis in axes if axis not in (colour, line)), values)
