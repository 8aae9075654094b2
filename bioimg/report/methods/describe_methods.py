"""Write what was done as a methods section: sentences, each of which is true of these results.

A sentence is a code with the values that it shows, so that a checklist can name it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bioimg.report.analysis import Analysis
from bioimg.report.class_images import TextTable, build_class_table
from bioimg.report.methods.division import DivisionParagraph
from bioimg.report.methods.external import ExternalParagraph
from bioimg.report.methods.groups import GroupsParagraph
from bioimg.report.methods.images import ImagesParagraph
from bioimg.report.methods.paragraph import Paragraph, Sentence
from bioimg.report.methods.result import ResultParagraph
from bioimg.report.methods.selection import SelectionParagraph
from bioimg.report.methods.software import SoftwareParagraph
from bioimg.report.methods.statistics import StatisticsParagraph
from bioimg.report.methods.training import TrainingParagraph
from bioimg.report.translation import translate
from bioimg.results.looks import Look

PARAGRAPHS: dict[str, type[Paragraph]] = {
    "images": ImagesParagraph,
    "division": DivisionParagraph,
    "training": TrainingParagraph,
    "selection": SelectionParagraph,
    "statistics": StatisticsParagraph,
    "software": SoftwareParagraph,
    "result": ResultParagraph,
    "external": ExternalParagraph,
    "groups": GroupsParagraph,
}
"""The paragraphs, in the order of the document, by the name of their title."""


@dataclass(frozen=True)
class Section:
    """A paragraph with its title."""

    title: str
    sentences: tuple[Sentence, ...]
    separator: str
    """What stands between two sentences."""

    @property
    def paragraph(self) -> str:
        """The sentences as one text."""
        return self.separator.join(sentence.text for sentence in self.sentences)


@dataclass(frozen=True)
class Methods:
    """What was done, for the methods and results of a paper."""

    sections: tuple[Section, ...]
    class_table: TextTable | None
    """Images and groups of each class in each subset; None if they weren't recorded."""

    def sentences(self) -> Iterator[Sentence]:
        """Yield the sentences of all sections."""
        for section in self.sections:
            yield from section.sentences


def describe_methods(analysis: Analysis, looks: Sequence[Look], lang: str = "en") -> Methods:
    """Describe what was done.

    Args:
        analysis: what the results show.
        looks: when test results were shown.
        lang: the language of the sentences.
    """
    sections = []
    for name, paragraph in PARAGRAPHS.items():
        sentences = tuple(paragraph(analysis, looks, lang).sentences())
        if sentences:
            title = translate(f"methods.title_{name}", lang)
            sections.append(Section(title, sentences, translate("methods.space", lang)))
    class_table = build_class_table(analysis.results, analysis.trials, lang)
    return Methods(tuple(sections), class_table)
