"""Consoles that act when the program prints something."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from support.results import saved_epochs


class ActingConsole(io.StringIO):
    """Act once, when a text that matches a pattern is printed.

    `before` holds the epochs that were saved at that moment.
    """

    def __init__(self, pattern: str, folder: Path | str, action: Callable[[], object]) -> None:
        super().__init__()
        self._pattern, self._folder, self._action = pattern, folder, action
        self.before = pd.DataFrame()

    def write(self, text: str) -> int:
        if re.search(self._pattern, text) and self.before.empty:
            self.before = saved_epochs(self._folder)
            self._action()
        return super().write(text)


class Interrupted(BaseException):
    """The program is interrupted, as by Ctrl-C."""


class InterruptingConsole(io.StringIO):
    """Interrupt the program when a text is printed for the n-th time."""

    def __init__(self, text: str, times: int) -> None:
        super().__init__()
        self._text, self._times = text, times

    def write(self, text: str) -> int:
        self._times -= self._text in text
        if not self._times:
            raise Interrupted
        return super().write(text)
