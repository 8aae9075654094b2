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
    texts = [replace_controls(str(item)) for item in items]
    more = f", ... ({len(texts)} in all)" if len(texts) > limit else ""
    return ", ".join(texts[:limit]) + more
