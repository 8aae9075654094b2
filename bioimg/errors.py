"""Errors that are shown to users as one line, and the words that they share."""

import difflib
from collections.abc import Iterable, Mapping

from bioimg.text import join_first


class UserError(ValueError):
    """Something that the user can fix.

    The text names the field, the value, the rule and the way out. Commands show it without a
    traceback.
    """


class StorageError(UserError):
    """A results folder can't take a file.

    Nothing can be recorded then, so this ends the experiment.
    """


class UnreadableImagesError(UserError):
    """No image of a set can be read."""

    def __init__(self, text: str, reasons: Mapping[str, str]) -> None:
        super().__init__(text)
        self.reasons = dict(reasons)
        """Why each can't be read, by its path."""


class CorruptFileError(ValueError):
    """The bytes of a file aren't those that were written."""


def suggest_closest(value: object, names: Iterable[str]) -> str:
    """Ask whether the closest of some names was meant; return an empty text if none is close."""
    matches = difflib.get_close_matches(str(value), list(names), n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def unknown_value_error(
    field: str, value: object, known: Iterable[str], way_out: str = ""
) -> UserError:
    """Return the error for an unknown name. It suggests the closest known one."""
    names = list(known)
    hint = suggest_closest(value, names)
    rule = f"must be one of: {join_first(names, 12)}."
    end = f" {way_out}" if way_out else ""
    return UserError(f"the value of `{field}` is {value!r}, but {rule}{hint}{end}")
