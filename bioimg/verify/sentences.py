"""Recognise the report's captions and notes in a text, with the values that they show."""

import functools
import re
import string

from bioimg.report.translation import LANGUAGES, read_catalogue
from bioimg.verify.cell_comparison import normalise_text


def parse_sentence(key: str, text: str, *, whole: bool = False) -> dict[str, str] | None:
    """Return the values of a sentence of the report that a text has, or None if it doesn't.

    Args:
        key: the key of the sentence in the catalogue, such as `caption.comparison`.
        text: a paragraph, in any language.
        whole: whether the sentence must be all of the text.
    """
    normalised = normalise_text(text)
    for lang in LANGUAGES:
        words, pattern = _sentence_pattern(key, lang)
        # most texts lack some word, which is found much faster than a pattern
        if not all(word in normalised for word in words):
            continue
        match = pattern.fullmatch(normalised) if whole else pattern.search(normalised)
        if match:
            return match.groupdict()
    return None


@functools.cache
def _sentence_pattern(key: str, lang: str) -> tuple[list[str], re.Pattern[str]]:
    """Return the words of a text of the catalogue, and its pattern with a group for each value."""
    template = normalise_text(read_catalogue(lang)[key])
    fields = list(string.Formatter().parse(template))
    words: list[str] = []
    parts: list[str] = []
    for position, (literal, name, _, _) in enumerate(fields, start=1):
        words += literal.split()
        parts.append(r"\s*".join(map(re.escape, literal.split(" "))))
        if name is not None:
            # to the end of the text; elsewhere, as little as possible
            amount = ".*" if position == len(fields) else ".*?"
            is_repeated = f"(?P<{name}>" in "".join(parts)
            parts.append(f"(?P={name})" if is_repeated else f"(?P<{name}>{amount})")
    return words, re.compile("".join(parts))
