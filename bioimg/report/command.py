"""The commands `bioimg report` and `bioimg verify`. What they need is imported when they run, so that their help is instant."""

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
    """Make tables, figures and a page of a results folder, and say which differences hold.

    Without flags everything goes to RESULTS/report: `report.html` is what to open first. With --rows, --columns, --sort,
    --group-by or --single only that comparison table is made, as `selection`.
    """

    folder: Annotated[str, Positional, arg(metavar="RESULTS")]
    """a folder of results, such as results/grid or s3://bucket/grid"""
    rows: str | None = None
    """a condition on settings and measures, such as 'freeze == "none" and batch_size >= 64'"""
    columns: tuple[str, ...] = ()
    """those shown, in this order; names are those of trials.parquet, besides balanced_accuracy, macro_f1, auroc, ece"""
    sort: tuple[str, ...] = ()
    """columns to sort by, the best first"""
    group_by: tuple[str, ...] = ()
    """settings; the trials that agree in them become one row: mean, standard deviation, number"""
    single: bool = False
    """a row for each trial, also where a configuration was repeated with other seeds or folds"""
    at_epoch: int | None = None
    """only a table of all trials as they stood after this epoch, stopped ones too"""
    format: Annotated[tuple[str, ...], arg(metavar="md|csv|tex|html|xlsx|docx|parquet ...")] = FORMATS
    """formats of the tables"""
    lang: Literal["en", "zh-TW"] = "en"
    """language of headers, captions and notes"""
    preset: Literal["report-2023"] | None = None
    """the nine tables of the report of 2023 instead"""
    # the help of a flag that is on by default is shown for --no-...
    figures: FlagCreatePairsOff[bool] = True
    """leave out the figures, which take longest"""
    price: float | None = None
    """money for an hour of one device, for the table of costs"""
    out: Path | None = None
    """another folder for all of it"""

    def run(self, images: "Images | None" = None) -> int:
        """Write and print; 0. The page and a figure show the worst mistakes: from these images, or from where they lay.

        Raises:
            UserError: no results there, or a flag names what isn't there.
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
        """What was asked of the comparison table; empty if nothing was."""
        names = ("rows", "columns", "sort", "group_by", "single")
        return {name: value for name in names if (value := getattr(self, name))}

    def _tables(self, results: "Results") -> "list[Table]":
        """Those that were asked for, the one to print first."""
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
    """Hold a table (.md, .tex, .csv, .docx, .xlsx), edited by hand or not, to the results: names every cell that disagrees."""

    file: Annotated[Path, Positional, arg(metavar="TABLE")]
    """the file with the table"""
    results: str | None = None
    """the folder of results; by default the one above the file"""

    def run(self) -> int:
        """Print what disagrees; 1 if anything does, else 0.

        Raises:
            UserError: no such file, no table in it, or no results.
        """
        from bioimg.report import documents, terminal
        from bioimg.report.verify import verify

        documents.require(self.file)  # before results are looked for above it
        verdict = verify(self.file, open_results(self.results or above(self.file)))
        terminal.show_verdict(self.file, verdict)
        return 1 if verdict.findings else 0


def open_results(folder: str | Path) -> "Results":
    """Read results, weights files by their names, with a word on what is wrong if they can't be.

    Raises:
        UserError: no results, half of them, or such that another version wrote.
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
    """The images that are still where and what they were."""
    from bioimg.data.again import Unchanged
    from bioimg.results.store import Store

    return Unchanged(TrialConfig(**results.experiment["base"]), Store(folder).digests())


@contextlib.contextmanager
def _target(folder: str, out: Path | None) -> Iterator[Path]:
    """Where documents are made: beside the results; for results in an object store in a folder that is uploaded afterwards."""
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
    """The folder of results that a file lies in.

    Raises:
        UserError: it lies in none.
    """
    for folder in file.resolve().parents:
        if (folder / "experiment.json").exists():
            return folder
    raise UserError(f"the file {file} lies in no folder of results. Name the results with --results.")
