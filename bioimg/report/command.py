"""The commands `bioimg report` and `bioimg verify`. They import what they need when they run, so their help is instant."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from bioimg.config import TrialConfig, UserError, unknown

if TYPE_CHECKING:
    from bioimg.report.scene import Images
    from bioimg.report.table import Table
    from bioimg.results.store import Results

FORMATS = ("md", "csv", "tex", "html", "xlsx", "docx", "parquet")


@dataclass(frozen=True, kw_only=True)
class Report:
    """Make tables, figures and a page from a results folder, and show which differences hold.

    Without flags, everything is written to RESULTS/report; open `report.html` first. With --rows, --columns, --sort,
    --group-by or --single, only that comparison table is made, named `selection`.
    """

    folder: Annotated[str, Positional, arg(metavar="RESULTS")]
    """a results folder, such as results/grid or s3://bucket/grid"""
    rows: str | None = None
    """a condition on settings and measures, such as 'freeze == "none" and batch_size >= 64'"""
    columns: tuple[str, ...] = ()
    """columns to show, in this order: those of trials.parquet, and balanced_accuracy, macro_f1, auroc, ece"""
    sort: tuple[str, ...] = ()
    """columns to sort by: settings in ascending order, measures with the best first"""
    group_by: tuple[str, ...] = ()
    """settings to group by: trials with the same values become one row with mean, standard deviation and number"""
    single: bool = False
    """one row per trial, even if a configuration was repeated with other seeds or folds"""
    at_epoch: int | None = None
    """make only a table of all trials, stopped ones too, as of this epoch"""
    format: Annotated[tuple[str, ...], arg(metavar="md|csv|tex|html|xlsx|docx|parquet ...")] = FORMATS
    """formats of the tables"""
    lang: Literal["en", "zh-TW"] = "en"
    """language of headers, captions and notes"""
    preset: Literal["report-2023"] | None = None
    """make the nine tables of the report of 2023 instead"""
    # the help of a flag that is on by default is shown for --no-...
    figures: FlagCreatePairsOff[bool] = True
    """leave out the figures, which take longest"""
    price: float | None = None
    """price of one device-hour, for the cost table"""
    out: Path | None = None
    """write everything to this folder instead"""

    def run(self, images: "Images | None" = None) -> int:
        """Write and print; returns 0. The page and a figure show the worst mistakes, from these images or from their files.

        Raises:
            UserError: there are no results, or a flag names something that doesn't exist.
        """
        for name in self.format:
            if name not in FORMATS:
                raise unknown("format", name, FORMATS)
        results = open_results(self.folder)
        with _target(self.folder, self.out) as out:
            self._make(results, out, images)
        return 0

    def _make(self, results: "Results", out: Path, images: "Images | None") -> None:
        from bioimg.report import documents, terminal

        tables = self._tables(results)
        for table in tables:
            documents.write(table, out, self.format)
        terminal.show(results, tables, out)
        if not (self.preset or self._chosen or self.at_epoch is not None):
            self._illustrate(results, out, images)

    @property
    def _chosen(self) -> "dict[str, Any]":
        """The flags given for the comparison table; empty if there are none."""
        names = ("rows", "columns", "sort", "group_by", "single")
        return {name: value for name in names if (value := getattr(self, name))}

    def _tables(self, results: "Results") -> "list[Table]":
        """The tables that were asked for; the first one is printed."""
        from bioimg.report import breakdown, presets
        from bioimg.report.tables import comparison

        if self.at_epoch is not None:
            return [breakdown.at_epoch(results, self.lang, self.at_epoch)]
        if self.preset:
            return presets.report_2023(results, self.lang)
        table = comparison(results, **self._chosen, lang=self.lang)
        if self._chosen:
            return [replace(table, name="selection")]
        return [table, *breakdown.tables(results, self.lang, self.price)]

    def _illustrate(self, results: "Results", out: Path, images: "Images | None") -> None:
        from bioimg.report import page

        images = unchanged(self.folder, results) if images is None else images
        print(f"The page to open first: {page.write(results, out / 'report.html', self.lang, images)}")
        if self.figures:
            from bioimg.report import figures

            print(f"{len(figures.write(results, out / 'figures', lang=self.lang, images=images))} figures in {out / 'figures'}")


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Check a table (.md, .tex, .csv, .docx, .xlsx), edited by hand or not, against the results; list cells that disagree."""

    file: Annotated[Path, Positional, arg(metavar="TABLE")]
    """the file with the table"""
    results: str | None = None
    """the results folder; by default the one that the file is in"""

    def run(self) -> int:
        """Print what disagrees; returns 1 if anything does, else 0.

        Raises:
            UserError: there is no such file, no table in it, or no results.
        """
        from bioimg.report import documents, terminal
        from bioimg.report.verify import verify

        documents.require(self.file)  # before results are looked for above it
        verdict = verify(self.file, open_results(self.results or above(self.file)))
        terminal.show_verdict(self.file, verdict)
        return 1 if verdict.findings else 0


def open_results(folder: str | Path) -> "Results":
    """Read results, with weights files shown by their names.

    Raises:
        UserError: there are no results, they are incomplete or damaged, or another version wrote them.
    """
    from bioimg.report.weights_files import by_file_name
    from bioimg.results import store

    try:
        results = store.read(folder)
    except UserError:
        raise
    except (ValueError, OSError) as error:  # of json and of pyarrow
        raise UserError(
            f"the results in {folder} can't be read: {error}. Copy the folder again, or rerun the experiment."
        ) from error
    return by_file_name(results)


def unchanged(folder: str, results: "Results") -> "Images":
    """The images that have neither moved nor changed."""
    from bioimg.data.again import Unchanged
    from bioimg.results.store import Store

    return Unchanged(TrialConfig(**results.experiment["base"]), Store(folder).digests())


@contextlib.contextmanager
def _target(folder: str, out: Path | None) -> Iterator[Path]:
    """Where documents are written: beside the results; for an object store, a temporary folder that is uploaded afterwards."""
    from bioimg.results.folder import beside, is_remote, open_folder

    if out or not is_remote(folder):
        yield out or Path(folder) / "report"
        return
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)
        files = open_folder(folder)
        for file in sorted(path for path in Path(made).rglob("*") if path.is_file()):
            files.write(f"report/{file.relative_to(made).as_posix()}", file.read_bytes())
    print(f"Uploaded to {beside(folder, 'report')}")


def above(file: Path) -> Path:
    """The results folder that a file is in.

    Raises:
        UserError: it isn't in one.
    """
    for folder in file.resolve().parents:
        if (folder / "experiment.json").exists():
            return folder
    raise UserError(f"the file {file} isn't in a results folder. Name the results with --results.")
