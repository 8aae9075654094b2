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
        pattern = _sentence_pattern(key, lang)
        match = pattern.fullmatch(normalised) if whole else pattern.search(normalised)
        if match:
            return match.groupdict()
    return None


@functools.cache
def _sentence_pattern(key: str, lang: str) -> re.Pattern[str]:
    """Return a pattern of a text of the catalogue, with a group for each of its values."""
    parts = []
    names: set[str] = set()
    template = normalise_text(read_catalogue(lang)[key])
    literals_and_names = [
        (literal, name) for literal, name, _, _ in string.Formatter().parse(template)
    ]
    for position, (literal, name) in enumerate(literals_and_names):
        parts.append(r"\s*".join(map(re.escape, literal.split(" "))))
        if name is None:
            continue
        if name in names:
            parts.append(f"(?P={name})")
            continue
        names.add(name)
        is_last = position == len(literals_and_names) - 1
        # to the end of the text; elsewhere, as little as possible
        parts.append(f"(?P<{name}>.*)" if is_last else f"(?P<{name}>.*?)")
    return re.compile("".join(parts))
