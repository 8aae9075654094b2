"""How the lines of trials are distinguished: one axis by colour, one by line style, the rest by panel."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

MAX_LINES = 48
"""Curves drawn together in a figure or on the page: those of the trials with the lowest validation loss."""
MAX_LINE_STYLES = 4
MAX_PANELS = 6
"""The most panels in a figure or on the page; those with the best trials are shown."""


@dataclass(frozen=True)
class VisualEncoding:
    """Twelve trials in twelve colours are hard to tell apart; each axis of the grid in a form of its own is easy to read.

    colour, line: a field of `TrialConfig`, or None.
    panel:        the fields whose values make a panel.
    values:       for each of these fields its values, as text, in the order of the table.
    """

    colour_field: str | None
    line_field: str | None
    panel_fields: tuple[str, ...]
    values_by_field: Mapping[str, list[str]]

    def style_indices(self, trial: pd.Series) -> tuple[int, int]:
        """The positions of a trial's values among those shown by colour and by line style."""
        first, second = (
            self.values_by_field[name].index(str(trial[name])) if name else 0
            for name in (self.colour_field, self.line_field)
        )
        return first, second

    def panels(self, trials: pd.DataFrame) -> list[pd.DataFrame]:
        """The trials of each panel, in the order of the trials."""
        if not self.panel_fields:
            return [trials]
        parts: Any = trials.groupby(list(self.panel_fields), sort=False, dropna=False)
        return [part for _, part in parts][:MAX_PANELS]


def choose_encoding(trials: pd.DataFrame, axes: Sequence[str]) -> VisualEncoding:
    """Assign colours to the axis with the most values, line styles to the next one, and panels to the rest."""
    values = {axis: list(trials[axis].astype(str).unique()) for axis in axes}
    ordered = sorted(axes, key=lambda axis: -len(values[axis]))
    colour = ordered[0] if ordered else None
    line = next((axis for axis in ordered[1:] if len(values[axis]) <= MAX_LINE_STYLES), None)
    return VisualEncoding(
        colour, line, tuple(axis for axis in axes if axis not in (colour, line)), values
    )
