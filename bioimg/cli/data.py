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
    """Regular expression on an image's path: what its first (...) matches is the image's group (slide, patient). Or `parent`:
    the group is the name of the image's folder. Without this option, patterns are guessed."""
    columns: str | None = None
    """Names of a table's columns if they aren't path, label, group and split, as in path=file,label=diagnosis."""
    channels: str | None = None
    """Planes of multi-channel images to use as red, green and blue, counted from 0, as in 2,1,0; a single one is grey."""
    image_size: int = 150
    """Side in pixels at which images are decoded. An experiment with the same size doesn't decode them again."""
    contact_sheet: Path | None = Path("contact-sheet.png")
    """File for an overview with a few images of each class; None for no file."""
    json: bool = False
    """Print JSON with all names, for programs."""

    def run(self, console: Console | None = None) -> int:
        """Print the audit and write the contact sheet. Returns the exit code.

        Raises:
            UserError: there are no usable images, or the contact sheet can't be written.
        """
        console = console or Console()
        names = ("data", "group_pattern", "columns", "channels", "image_size")
        config = DatasetConfig(**{name: getattr(self, name) for name in names})
        with Bar(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("reading images", total=None)
            found, images = audit_images(
                config, lambda done, total: bar.update(task, completed=done, total=total)
            )
        if self.contact_sheet:
            _save_contact_sheet(draw_contact_sheet(images), self.contact_sheet)
        if self.json:
            print(
                json.dumps(
                    dataclasses.asdict(found) | {"contact_sheet": str(self.contact_sheet or "")},
                    indent=2,
                )
            )
        else:
            print_audit(found, console)
            console.print(
                Text(f"contact sheet: {self.contact_sheet}" if self.contact_sheet else "")
            )
        return 0


def _save_contact_sheet(sheet: Image.Image, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"the value of `contact_sheet` is {str(path)!r}, which can't be written: {error}."
        ) from error


def print_audit(found: Audit, console: Console) -> None:
    """Print an audit for people."""
    synthetic = " (synthetic: drawn by a program)" if found.synthetic else ""
    console.print(
        Text(
            f"{replace_controls(found.name)}: {found.images} images in {len(found.classes)} classes{synthetic}",
            "bold",
        )
    )
    for name, value in _audit_lines(found):
        console.print(
            Text.assemble((f"{name:<16}", "cyan"), replace_controls(value)), soft_wrap=True
        )
    console.print(_class_table(found))
    for name, parts in found.splits.items():
        for text in _split_problems(name, parts):
            console.print(Text(replace_controls(text), "yellow"), soft_wrap=True)


def _audit_lines(found: Audit) -> list[tuple[str, str]]:
    groups = found.groups
    lines = [
        ("size", _format_counts(found.sizes)),
        ("stored as", _format_counts(found.stored)),
        ("format", _format_counts(found.formats)),
        ("imbalance", f"{found.imbalance:.3g} to 1 (largest to smallest class)"),
        (
            "groups",
            "none known; use --group-pattern to find them in paths"
            if groups is None
            else f"{len(groups)}: {_format_counts(dict(sorted(groups.items())))}",
        ),
        (
            "guessed groups",
            "; ".join(
                f"--group-pattern '{g.pattern}' ({g.group_count} groups; {g.largest_group})"
                for g in found.guessed_patterns
            ),
        ),
        ("black to white", _format_limits(found.scaling or ())),
        (
            "unreadable",
            _count_and_list([f"{path} ({reason})" for path, reason in found.unreadable.items()]),
        ),
        ("ignored", _count_and_list(found.ignored)),
        ("copies", _count_and_list([" = ".join(same) for same in found.duplicates])),
        ("look alike", _count_and_list([f"{a} ~ {b}" for a, b in found.near_duplicates])),
        (
            "fingerprint",
            f"{found.fingerprint} (of pixels, labels and given parts: changes if any of them does)",
        ),
    ]
    return [(name, value) for name, value in lines if value]


def _format_limits(scaling: Sequence[tuple[float, float]]) -> str:
    """The stored values that became black and white in images of more than 8 bits, once if all colours have the same."""
    limits = [f"{low:.6g} to {high:.6g}" for low, high in scaling]
    if len(set(limits)) > 1:
        limits = [
            f"{colour} {limit}"
            for colour, limit in zip(("red", "green", "blue"), limits, strict=True)
        ]
    return f"{', '.join(dict.fromkeys(limits))} (stored values)" if limits else ""


def _format_counts(counts: dict[str, int]) -> str:
    return join_first(f"{name} ({count})" for name, count in counts.items())


def _count_and_list(items: list[str]) -> str:
    return f"{len(items)}: {join_first(items)}" if items else ""


def _class_table(found: Audit) -> Table:
    """Images of each class, in total and in the parts of each split that is possible."""
    table = Table("class", "images", title="what each split would contain (train / val / test)")
    splits = {name: parts for name, parts in found.splits.items() if not parts.error}
    for name in splits:
        table.add_column(name, justify="right")
    for label, count in found.classes.items():
        held = [
            " / ".join(str(some[label]) for some in parts.images.values())
            for parts in splits.values()
        ]
        table.add_row(Text(replace_controls(label)), str(count), *held)
    return table


def _split_problems(name: str, parts: SplitPreview) -> list[str]:
    if parts.error:
        return [f"{name}: {parts.error}"]
    troubles = [
        (
            parts.leaks_groups,
            "images of one group are in more than one part: results are too good for new groups",
        ),
        (
            parts.duplicates,
            f"validation and test images with an exact copy in another part: {parts.duplicates}",
        ),
        (
            parts.near_duplicates,
            f"validation and test images that look like one in another part: {parts.near_duplicates}",
        ),
    ]
    return [f"{name}: {text}." for there, text in troubles if there]
