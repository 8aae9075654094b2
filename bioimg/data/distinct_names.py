"""One rule for names of classes and groups, wherever they come from: each thing has one name."""

import re
import unicodedata
from collections.abc import Iterable

from bioimg.errors import UserError
from bioimg.text import join_first

LEADING_ZEROS = re.compile(r"(?<![\d.,])0+(?=\d)")
"""Zeros that say nothing, as in slide07; those of 0.05 and 1.05 do."""


def require_distinct(source: str, kind: str, names: Iterable[str]) -> None:
    """Refuse names that mean the same thing.

    source: what holds them, as in "the folder of `data`, my-tiles,".
    kind:   what they name, as in "classes".

    Raises:
        UserError: lists the names.
    """
    spellings = find_spellings(names)
    if spellings:
        shown = join_first(" = ".join(map(repr, group)) for group in spellings)
        raise UserError(
            f"{source} holds {kind} that differ only in case, blanks, Unicode form or leading "
            f"zeros: {shown}. Give each one name."
        )


def find_spellings(names: Iterable[str]) -> list[list[str]]:
    """Return the sets of two or more different names that mean the same thing."""
    by_meaning: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        by_meaning.setdefault(normalise_name(name), []).append(name)
    return [group for group in by_meaning.values() if len(group) > 1]


def normalise_name(name: str) -> str:
    """Return the same text for names that differ only in case, blanks, Unicode form or zeros."""
    characters = unicodedata.normalize("NFKC", name).casefold()
    # such as zero-width spaces, which nobody sees
    visible = "".join(c for c in characters if unicodedata.category(c) != "Cf")
    words = visible.replace("_", " ").split()
    return LEADING_ZEROS.sub("", " ".join(words))
