"""What `bioimg verify` finds: one line each, with a code and a level."""

from dataclasses import dataclass
from typing import Literal

Level = Literal["error", "note"]
"""error: the file says, hides or lacks something that the results don't support.

note: something that was not compared, or was put into other words.
"""

FindingCode = Literal[
    # cells
    "value",  # a number or word is not that of the results
    "setting",  # a setting (class, ...) is not that of the row that has these numbers
    "words",  # words, units or signs stand beside the number
    "digits",  # too few digits are left of the number
    "empty",  # the results have a value, the cell has none
    "interval",  # intervals or deviations were removed
    "bold",  # a number is set in bold that is not the best one
    # rows and columns
    "missing-row",
    "unknown-row",
    "repeated-row",
    "long-row",  # a row has more cells than there are headers
    "missing-column",  # a column that tells rows apart was removed
    "unknown-column",  # a header isn't known
    "repeated-column",
    # what readers of the file don't see
    "hidden",
    "formula",
    "format",  # a number format that may show something else than the number
    # text
    "caption",
    "sentence",  # a note has other values than the report's
    "missing-warning",
    "missing-fingerprint",
    "other-results",
    "reworded",
    "missing-note",
    "other-table",  # a table that isn't one of bioimg's
]


@dataclass(frozen=True)
class Finding:
    """Something that a reader of the file should know."""

    code: FindingCode
    text: str
    level: Level = "error"

    def __str__(self) -> str:
        return self.text
