"""`bioimg data`: inspect a set of images before anything is trained on it."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
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
from bioimg.data.audit.summary import Audit, audit_images
from bioimg.data.copies import join_copies
from bioimg.errors import UserError
from bioimg.text import join_first, replace_controls


@dataclass(frozen=True, kw_only=True)
class DataCommand:
    """Show what is in a set of images, and what each split of it would contain."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """Folder, table, .npz or name of a set, as for --data of an experiment"""
    group_pattern: str | None = None
    """Regular expression for image paths, whose first (...) matches the image's group (slide,
    patient); or `parent`: the name of the image's folder is its group; or `copies`: images that
    look alike are a group. Without it, patterns are guessed"""
    columns: str | None = None
    """Column names of a table that aren't path, label, group and split, as in
    path=file,label=diagnosis"""
    images: str | None = None
    """Folder in which a table's images are found; by default the folder of the table"""
    layout: str | None = None
    """What the folders of DATA mean, from the top down, as in patient/class"""
    channels: str | None = None
    """Channels of multi-channel images to use as red, green and blue, counted from 0, as in 2,1,0;
    one is grey"""
    image_size: int = 150
    """Side length of decoded images, in pixels; an experiment with the same size doesn't decode
    them again"""
    contact_sheet: Path | None = Path("contact-sheet.png")
    """File for an overview with a few images of each class; None for no file"""
    json: bool = False
    """Print JSON with all names, for programs"""

    def run(self, console: Console | None = None) -> int:
        """Print the audit and write the contact sheet. Return the exit code.

        Raises:
            UserError: there are no usable images, or the contact sheet can't be written.
        """
        console = console or Console()
        config = DatasetConfig(
            data=self.data,
            group_pattern=self.group_pattern,
            columns=self.columns,
            images=self.images,
            layout=self.layout,
            channels=self.channels,
            image_size=self.image_size,
        )
        with Bar(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("finding images", total=None)

            def show_step(step: str, done: int, total: int) -> None:
                bar.update(task, description=step, completed=done, total=total)

            audit, images = audit_images(config, show_step)
        if self.contact_sheet:
            _save_contact_sheet(draw_contact_sheet(images), self.contact_sheet)
        contact_sheet = str(self.contact_sheet or "")
        if self.json:
            record = dataclasses.asdict(audit) | {"contact_sheet": contact_sheet}
            print(json.dumps(record, indent=2))
            return 0
        print_audit(audit, console)
        console.print(Text(f"contact sheet: {contact_sheet}" if contact_sheet else ""))
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
    title = f"{replace_controls(audit.name)}: {audit.images} images in {len(audit.classes)} classes"
    if audit.synthetic:
        title += " (synthetic: drawn by a program)"
    console.print(Text(title, "bold"))
    for name, value in _audit_lines(audit):
        line = Text.assemble((f"{name:<16}", "cyan"), replace_controls(value))
        console.print(line, soft_wrap=True)
    console.print(_class_table(audit))
    for name, preview in audit.splits.items():
        for problem in [preview.error] if preview.error else preview.warnings:
            text = f"{name}: {replace_controls(problem)}"
            console.print(Text(text, "yellow"), soft_wrap=True)


def _audit_lines(audit: Audit) -> list[tuple[str, str]]:
    """Return name and value of each line; those without a value are left out."""
    unreadable = [f"{path} ({reason})" for path, reason in audit.unreadable.items()]
    lines = {
        "read as": "; ".join(audit.assumptions),
        "size": _format_counts(audit.sizes),
        "stored as": _format_counts(audit.stored),
        "format": _format_counts(audit.formats),
        "imbalance": f"{audit.imbalance:.3g} to 1 (largest to smallest class)",
        "groups": _format_groups(audit),
        "guessed groups": _format_guessed_patterns(audit),
        "black to white": _format_limits(audit.scaling or ()),
        "unreadable": _count_and_list(unreadable),
        "ignored": _count_and_list(audit.ignored),
        "copies": _count_and_list(list(map(join_copies, audit.duplicates))),
        "several labels": _count_and_list(list(map(join_copies, audit.contradictions))),
        "look alike": _count_and_list(list(map(join_copies, audit.look_alikes))),
        "fingerprint": f"{audit.fingerprint} (of pixels, labels and given parts: changes if any of "
        "them does)",
    }
    return [(name, value) for name, value in lines.items() if value]


def _format_groups(audit: Audit) -> str:
    if audit.groups is None:
        return "none known; use --group-pattern to find them in paths"
    counts = dict(sorted(audit.groups.items()))
    return f"{len(counts)}: {_format_counts(counts)}"


def _format_guessed_patterns(audit: Audit) -> str:
    return "; ".join(
        f"--group-pattern '{guess.pattern}' ({guess.group_count} groups; {guess.largest_group})"
        for guess in audit.guessed_patterns
    )


def _format_limits(scaling: Sequence[tuple[float, float]]) -> str:
    """Return the stored values that became black and white in images of more than 8 bits.

    They are shown once if all colours have the same.
    """
    if not scaling:
        return ""
    limits = [f"{low:.6g} to {high:.6g}" for low, high in scaling]
    if len(set(limits)) > 1:
        pairs = zip(("red", "green", "blue"), limits, strict=True)
        limits = [f"{colour} {limit}" for colour, limit in pairs]
    return f"{', '.join(dict.fromkeys(limits))} (stored values)"


def _format_counts(counts: Mapping[str, int]) -> str:
    return join_first(f"{name} ({count})" for name, count in counts.items())


def _count_and_list(items: Sequence[str]) -> str:
    return f"{len(items)}: {join_first(items)}" if items else ""


def _class_table(audit: Audit) -> Table:
    """Return the images of each class, in total and in the subsets of each possible split."""
    table = Table("class", "images", title="what each split would contain (train / val / test)")
    previews = {name: preview for name, preview in audit.splits.items() if not preview.error}
    for name in previews:
        table.add_column(name, justify="right")
    for label, count in audit.classes.items():
        cells = []
        for preview in previews.values():
            subset_counts = [str(counts[label]) for counts in preview.images.values()]
            cells.append(" / ".join(subset_counts))
        table.add_row(Text(replace_controls(label)), str(count), *cells)
    return table
