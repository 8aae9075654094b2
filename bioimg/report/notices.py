"""Sentences that accompany numbers, with what they are: a warning or a note."""

from dataclasses import dataclass

from bioimg.report.translation import translate


@dataclass(frozen=True)
class Notice:
    """A sentence for readers."""

    key: str
    """Key of the text in the catalogue, such as `warning.leak` or `note.source`."""
    text: str

    @property
    def is_warning(self) -> bool:
        """Whether it says that numbers or their comparison are unreliable."""
        return self.key.startswith("warning.")

    def __str__(self) -> str:
        return self.text


def make_notice(key: str, lang: str, /, **values: object) -> Notice:
    """Make a notice from the text of a key, with its values filled in.

    Raises:
        UserError: there is no such language.
    """
    return Notice(key, translate(key, lang, **values))
