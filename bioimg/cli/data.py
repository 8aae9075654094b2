"""`bioimg data`: inspect a set of images before anything is trained on it."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from PIL import Image
from rich.console import Console
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from bioimg.config import DatasetConfig
from bioimg.data.audit.contact_sheet import draw_contact_sheet
from bioimg.data.audit.summary import Audit, SplitPreview, audit_images
from bioimg.errors import UserError
from bioimg.text import join_first, replace_controls


@dataclass(frozen=True, kw_only=True)
class DataCommand:
    """Show what is in a set of images, and what each split of it would contain."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """A folder, a table, an .npz or a name, as for --data of an experiment."""
    group_pattern: str | None = None
    """Regular expression on an image's path, whose first (...) matches the image's group (slide,
    patient). Or `parent`: the group is the name of the image's folder. Without this option,
    patterns are guessed."""
    columns: str | None = None
    """Names of a table's columns if they aren't path, label, group and split, as in
    path=file,label=diagnosis."""
    channels: str | None = None
    """Channels of multi-channel images to use as red, green and blue, counted from 0, as in 2,1,0.
    A single one is grey."""
    image_size: int = 150
    """Side in pixels at which images are decoded. An experiment with the same size doesn't decode
    them again."""
    contact_sheet: Path | None = Path("contact-sheet.png")
    """File for an overview with a few images of each class; None for no file."""
    json: bool = False
    """Print JSON with all names, for programs."""

    def run(self, console: Console | None = None) -> int:
        """Print the audit and write the contact sheet. Return the exit code.

        Raises:
            UserError: there are no usable images, or the contact sheet can't be written.
        """
        config = DatasetConfig(
            data=self.data,
            group_pattern=self.group_pattern,
            columns=self.columns,
            channels=self.channels,
            image_size=self.image_size,
        )
        with Bar(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("reading images", total=None)

            def show_progress(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)

            audit, images = audit_images(config, show_progress)
        if self.contact_sheet:
            _save_contact_sheet(draw_contact_sheet(images), self.contact_sheet)
        if self.json:
            content = dataclasses.asdict(audit)
            content["contact_sheet"] = str(self.contact_sheet or "")
            print(json.dumps(content, indent=2))
            return 0
        console = console or Console()
        print_audit(audit, console)
        console.print(Text(f"contact sheet: {self.contact_sheet}" if self.contact_sheet else ""))
        return 0


def _save_contact_sheet(sheet: Image.Image, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"the value of `contact_sheet` is {str(path)!r}, which can't be written: {error}."
        ) from error


def print_audit(audit: Audit, console: Console) -> None:
    """Print an audit for people."""
    synthetic = " (synthetic: drawn by a program)" if audit.synthetic else ""
    title = f"{audit.name}: {audit.images} images in {len(audit.classes)} classes{synthetic}"
    console.print(Text(replace_controls(title), "bold"))
    for name, value in _audit_lines(audit):
        line = Text.assemble((f"{name:<16}", "cyan"), replace_controls(value))
        console.print(line, soft_wrap=True)
    console.print(_class_table(audit))
    for method, preview in audit.splits.items():
        for problem in _split_problems(preview):
            line = Text(replace_controls(f"{method}: {problem}"), "yellow")
            console.print(line, soft_wrap=True)


def _audit_lines(audit: Audit) -> list[tuple[str, str]]:
    """Return the name and value of each line that has something to say."""
    guesses = [
        f"--group-pattern '{guess.pattern}' ({guess.group_count} groups; {guess.largest_group})"
        for guess in audit.guessed_patterns
    ]
    unreadable = [f"{path} ({reason})" for path, reason in audit.unreadable.items()]
    copies = [" = ".join(paths) for paths in audit.duplicates]
    similar = [f"{first} ~ {second}" for first, second in audit.near_duplicates]
    fingerprint_note = "of pixels, labels and given subsets: changes if any of them does"
    lines = [
        ("size", _format_counts(audit.sizes)),
        ("stored as", _format_counts(audit.stored)),
        ("format", _format_counts(audit.formats)),
        ("imbalance", f"{audit.imbalance:.3g} to 1 (largest to smallest class)"),
        ("groups", _format_groups(audit.groups)),
        ("guessed groups", "; ".join(guesses)),
        ("black to white", _format_limits(audit.scaling or ())),
        ("unreadable", _count_and_list(unreadable)),
        ("ignored", _count_and_list(audit.ignored)),
        ("copies", _count_and_list(copies)),
        ("look alike", _count_and_list(similar)),
        ("fingerprint", f"{audit.fingerprint} ({fingerprint_note})"),
    ]
    return [(name, value) for name, value in lines if value]


def _format_groups(groups: dict[str, int] | None) -> str:
    if groups is None:
        return "none known; use --group-pattern to find them in paths"
    by_name = dict(sorted(groups.items()))
    return f"{len(groups)}: {_format_counts(by_name)}"


def _format_limits(limits: Sequence[tuple[float, float]]) -> str:
    """Name the stored values that became black and white, once if all colours have the same."""
    ranges = [f"{low:.6g} to {high:.6g}" for low, high in limits]
    if not ranges:
        return ""
    if len(set(ranges)) == 1:
        return f"{ranges[0]} (stored values)"
    colours = zip(("red", "green", "blue"), ranges, strict=True)
    return f"{', '.join(f'{colour} {text}' for colour, text in colours)} (stored values)"


def _format_counts(counts: dict[str, int]) -> str:
    return join_first(f"{name} ({count})" for name, count in counts.items())


def _count_and_list(items: list[str]) -> str:
    return f"{len(items)}: {join_first(items)}" if items else ""


def _class_table(audit: Audit) -> Table:
    """Count the images of each class, in total and in the subsets of each possible split."""
    table = Table("class", "images", title="what each split would contain (train / val / test)")
    possible = {method: preview for method, preview in audit.splits.items() if not preview.error}
    for method in possible:
        table.add_column(method, justify="right")
    for name, count in audit.classes.items():
        cells = [Text(replace_controls(name)), str(count)]
        for preview in possible.values():
            subset_counts = [str(counts[name]) for counts in preview.images.values()]
            cells.append(" / ".join(subset_counts))
        table.add_row(*cells)
    return table


def _split_problems(preview: SplitPreview) -> list[str]:
    """Return what makes a split impossible, or results on it too good."""
    if preview.error:
        return [preview.error]
    problems = []
    if preview.leaks_groups:
        problems.append(
            "images of one group are in more than one subset: results are too good for new groups."
        )
    if preview.duplicates:
        problems.append(
            "validation and test images with an exact copy in another subset: "
            f"{preview.duplicates}."
        )
    if preview.near_duplicates:
        problems.append(
            "validation and test images that look like one in another subset: "
            f"{preview.near_duplicates}."
        )
    return problems
