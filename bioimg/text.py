"""Text for terminals and messages."""

from collections.abc import Iterable


def replace_controls(text: str) -> str:
    """Replace control characters, so that a terminal can show names from the data.

    Escape sequences begin with one.
    """
    return "".join(
        character if character.isprintable() or character == "\n" else "\ufffd"
        for character in text
    )


def join_first(items: Iterable[object], limit: int = 10) -> str:
    """Join the first few items with commas; where more follow, say how many there are in all."""
    every = list(items)
    more = f", ... ({len(every)} in all)" if len(every) > limit else ""
    return ", ".join(replace_controls(str(item)) for item in every[:limit]) + more
