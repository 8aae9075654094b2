"""Compare caption and notes of a file with those of the report."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from bioimg.report.translation import read_catalogue
from bioimg.verify.cell_comparison import normalise_text
from bioimg.verify.findings import Finding
from bioimg.verify.sentences import parse_sentence

SOURCE_KEY = "note.source"
"""The source has findings of its own."""
NOTE_SECTIONS = ("note.", "warning.")
WORD_PATTERN = re.compile(r"\d+(?:\.\d+)?|[A-Za-z_]+|\w")
"""A number, a word in Latin letters, or a Chinese character."""
NUMBER_PATTERN = re.compile(r"\d+(?:\.\d+)?")
MIN_COMMON_WORDS = 0.6
"""A paragraph is taken for a changed copy of a sentence if it shares this part of both's words."""
SENTENCE_ENDS = (". ", "。")
MAX_QUOTED_CHARACTERS = 90


@dataclass(frozen=True)
class Sentence:
    """A caption, note or warning of the report.

    texts: the sentence in each language.
    """

    level: Literal["caption", "warning", "note"]
    code: str
    texts: tuple[str, ...]

    @property
    def key(self) -> str:
        """Its key in the catalogue."""
        return f"{self.level}.{self.code}"


def compare_texts(
    paragraphs: Sequence[str], sentences: Iterable[Sentence], digest: str
) -> Iterator[Finding]:
    """Yield where the text around tables says something else than the report, or less.

    Additions are no findings, and neither is another beginning of a caption.

    Args:
        paragraphs: the paragraphs of the file.
        sentences: what the report says around these tables.
        digest: the fingerprint of the results.
    """
    expected = list(dict.fromkeys(sentences))
    yield from _compare_fingerprint(paragraphs, expected, digest)
    expected = [sentence for sentence in expected if sentence.key != SOURCE_KEY]
    changed_keys: set[str] = set()
    for paragraph in paragraphs:
        for key, finding in _compare_paragraph(paragraph, expected):
            changed_keys.add(key)
            yield finding
    document = "\n".join(map(_squeeze, paragraphs))
    texts = {_squeeze(text) for sentence in expected for text in sentence.texts}
    others = [paragraph for paragraph in paragraphs if _squeeze(paragraph) not in texts]
    missing = []
    for sentence in expected:
        is_there = any(_squeeze(text) in document for text in sentence.texts)
        if not is_there and sentence.key not in changed_keys:
            missing.append(sentence)
    yield from _describe_missing(missing, others)


def _compare_fingerprint(
    paragraphs: Sequence[str], expected: Sequence[Sentence], digest: str
) -> Iterator[Finding]:
    """Yield a finding if the text doesn't name these results as its source."""
    named = []
    for paragraph in paragraphs:
        values = parse_sentence(SOURCE_KEY, paragraph)
        if values is not None and values["fingerprint"] != digest:
            named.append(values["fingerprint"])
    if named:
        yield Finding(
            "other-results",
            f"the file says that it was made from other results ({named[0]}), not from {digest}. "
            "Make the table again.",
        )
        return
    is_needed = any(sentence.key == SOURCE_KEY for sentence in expected)
    if is_needed and not any(digest in paragraph for paragraph in paragraphs):
        yield Finding(
            "missing-fingerprint",
            f"the file doesn't say from which results it was made. Add the fingerprint {digest}.",
        )


def _compare_paragraph(
    paragraph: str, expected: Sequence[Sentence]
) -> Iterator[tuple[str, Finding]]:
    """Yield the key of a sentence and a finding, if a paragraph has its words but other values."""
    squeezed = _squeeze(paragraph)
    texts = [text for sentence in expected for text in sentence.texts]
    if squeezed in map(_squeeze, texts):
        return
    captions = [sentence.key for sentence in expected if sentence.level == "caption"]
    notes = [key for key in read_catalogue("en") if key.startswith(NOTE_SECTIONS)]
    for key in dict.fromkeys([*captions, *notes]):
        if key == SOURCE_KEY:
            continue
        found = parse_sentence(key, paragraph, whole=key not in captions)
        if found is None:
            continue
        code = "caption" if key in captions else "sentence"
        differences = []
        for sentence in expected:
            if sentence.key == key:
                differences.append(_describe_differences(found, sentence))
        if not differences:
            text = f"the report doesn't say of these results: {_quote(paragraph)}"
            yield key, Finding(code, text)
        elif all(differences):
            yield key, Finding(code, f"{_quote(paragraph)}: {differences[0]}.")


def _describe_differences(found: dict[str, str], sentence: Sentence) -> str:
    """Return which values of a paragraph aren't those of a sentence, or an empty text."""
    by_language = []
    for text in sentence.texts:
        expected = parse_sentence(sentence.key, text, whole=True) or {}
        differences = [
            f"the file says {found[name] or 'nothing'}, the results say {value or 'nothing'}"
            for name, value in expected.items()
            if not _has_value(found[name], value)
        ]
        by_language.append("; ".join(differences))
    # words among the values, such as names of tests, may be in either language
    return min(by_language, key=len)


def _has_value(found: str, expected: str) -> bool:
    """Return True if a text is a value, or begins with it and goes on with another sentence."""
    if not found.startswith(expected):
        return False
    rest = found.removeprefix(expected)
    return not rest or rest.startswith(SENTENCE_ENDS)


def _describe_missing(missing: Sequence[Sentence], paragraphs: Sequence[str]) -> Iterator[Finding]:
    """Yield what became of sentences of the report that the file doesn't have."""
    left_out = 0
    for sentence in missing:
        copy = _closest_paragraph(sentence, paragraphs)
        if sentence.level == "warning":
            text = f"a warning of the report is missing: {sentence.texts[0]}"
            yield Finding("missing-warning", text)
        elif copy is None:
            left_out += 1
        elif lost := _lost_numbers(sentence, copy):
            code = "caption" if sentence.level == "caption" else "sentence"
            yield Finding(
                code,
                f"{_quote(copy)}: the numbers {', '.join(lost)} of the report are missing. "
                f"It says: {sentence.texts[0]}",
            )
        else:
            yield Finding("reworded", f"in other words than the report: {_quote(copy)}", "note")
    if left_out:
        yield Finding(
            "missing-note", f"captions and notes that the file lacks: {left_out}.", "note"
        )


def _closest_paragraph(sentence: Sentence, paragraphs: Sequence[str]) -> str | None:
    """Return the paragraph that shares most words with a sentence, if that is most of them."""
    best_share, best_paragraph = 0.0, None
    for text in sentence.texts:
        words = set(WORD_PATTERN.findall(text))
        for paragraph in paragraphs:
            other_words = set(WORD_PATTERN.findall(paragraph))
            share = len(words & other_words) / len(words | other_words)
            if share > best_share:
                best_share, best_paragraph = share, paragraph
    return best_paragraph if best_share >= MIN_COMMON_WORDS else None


def _lost_numbers(sentence: Sentence, paragraph: str) -> list[str]:
    """Return the numbers of a sentence that a paragraph lacks, in the language that fits best."""
    there = Counter(NUMBER_PATTERN.findall(paragraph))
    losses = []
    for text in sentence.texts:
        lost = Counter(NUMBER_PATTERN.findall(text)) - there
        losses.append(list(lost.elements()))
    return min(losses, key=len)


def _squeeze(text: str) -> str:
    """Return a text without spaces, so that it doesn't matter where lines were broken."""
    return "".join(normalise_text(text).split())


def _quote(paragraph: str) -> str:
    if len(paragraph) > MAX_QUOTED_CHARACTERS:
        paragraph = paragraph[: MAX_QUOTED_CHARACTERS - 1] + "…"
    return f"“{paragraph}”"
