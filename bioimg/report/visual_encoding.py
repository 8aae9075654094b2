"""How lines of trials are distinguished: one axis by colour, one by line style, others by panel.

Two modules draw what is decided here. `plots` makes figures for papers with matplotlib.
`svg_charts` lays out those of the page, which answer the pointer and the keyboard, and which are
made with every run: importing matplotlib would cost each of them seconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

PALETTE = ("#0072b2", "#d55e00", "#009e73", "#b85c93", "#2b93d1", "#b97f00", "#000000")
"""Colours on white paper, for figures and page.

They are those of Okabe and Ito, which colour-blind readers can distinguish, without yellow and with
the palest three darkened to a contrast of 3 to 1.
"""
MAX_LINES = 48
"""Curves drawn together in a figure or on the page: those with the lowest validation loss."""
MAX_LINE_STYLES = 4
MAX_PANELS = 6
"""The most panels in a figure or on the page. Those with the best trials are shown."""


@dataclass(frozen=True)
class VisualEncoding:
    """Show each axis of the grid in its own form: twelve colours are hard to tell apart."""

    colour_field: str | None
    """A field of `TrialConfig`."""
    line_field: str | None
    """A field of `TrialConfig`."""
    panel_fields: tuple[str, ...]
    """The fields whose values make a panel."""
    values_by_field: Mapping[str, list[str]]
    """For each of these fields its values as text, in the order of the table."""

    def style_indices(self, trial: pd.Series) -> tuple[int, int]:
        """Return the positions of a trial's values among the colours and among the line styles."""
        colour = self._value_index(self.colour_field, trial)
        line = self._value_index(self.line_field, trial)
        return colour, line

    def _value_index(self, field: str | None, trial: pd.Series) -> int:
        if field is None:
            return 0
        return self.values_by_field[field].index(str(trial[field]))

    def panels(self, trials: pd.DataFrame) -> list[pd.DataFrame]:
        """Split trials into panels, in the order of the trials."""
        if not self.panel_fields:
            return [trials]
        groups = trials.groupby(list(self.panel_fields), sort=False, dropna=False)
        return [panel for _, panel in groups][:MAX_PANELS]


def choose_encoding(trials: pd.DataFrame, axes: Sequence[str]) -> VisualEncoding:
    """Assign colours to the axis with most values, line styles to the next, panels to the rest."""
    values = {axis: list(trials[axis].astype(str).unique()) for axis in axes}
    by_size = sorted(axes, key=lambda axis: -len(values[axis]))
    colour = by_size[0] if by_size else None
    few_values = [axis for axis in by_size[1:] if len(values[axis]) <= MAX_LINE_STYLES]
    line = few_values[0] if few_values else None
    panels = tuple(axis for axis in axes if axis not in (colour, line))
    return VisualEncoding(colour, line, panels, values)
