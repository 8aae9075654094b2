"""The commands `bioimg report` and `bioimg verify`. They import what they need when they run, so their help is instant."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import FlagCreatePairsOff, Positional, arg

from bioimg.config import TrialConfig
from bioimg.errors import UserError, unknown_value_error

if TYPE_CHECKING:
    from bioimg.report.report_context import ImagesByPath
    from bioimg.report.table_model import Table
    from bioimg.results.result_store import Results

TABLE_FORMATS = ("md", "csv", "tex", "html", "xlsx", "docx", "parquet")


@dataclass(frozen=True, kw_only=True)
class ReportCommand:
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
    format: Annotated[tuple[str, ...], arg(metavar="md|csv|tex|html|xlsx|docx|parquet ...")] = (
        TABLE_FORMATS
    )
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

    def run(self, images: "ImagesByPath | None" = None) -> int:
        """Write and print; returns 0. The page and a figure show the worst mistakes, from these images or from their files.

        Raises:
            UserError: there are no results, or a flag names something that doesn't exist.
        """
        for name in self.format:
            if name not in TABLE_FORMATS:
                raise unknown_value_error("format", name, TABLE_FORMATS)
        results = open_results(self.folder)
        with _output_folder(self.folder, self.out) as out:
            self._write_outputs(results, out, images)
        return 0

    def _write_outputs(self, results: "Results", out: Path, images: "ImagesByPath | None") -> None:
        from bioimg.report import documents, terminal

        tables = self._build_tables(results)
        for table in tables:
            documents.write_table(table, out, self.format)
        terminal.print_report(results, tables, out)
        if not (self.preset or self._selection_flags or self.at_epoch is not None):
            self._write_page_and_figures(results, out, images)

    @property
    def _selection_flags(self) -> "dict[str, Any]":
        """The flags given for the comparison table; empty if there are none."""
        names = ("rows", "columns", "sort", "group_by", "single")
        return {name: value for name in names if (value := getattr(self, name))}

    def _build_tables(self, results: "Results") -> "list[Table]":
        """The tables that were asked for; the first one is printed."""
        from bioimg.report import detail_tables, presets
        from bioimg.report.comparison_table import build_comparison

        if self.at_epoch is not None:
            return [detail_tables.epoch_table(results, self.lang, self.at_epoch)]
        if self.preset:
            return presets.report_2023_tables(results, self.lang)
        table = build_comparison(results, **self._selection_flags, lang=self.lang)
        if self._selection_flags:
            return [replace(table, name="selection")]
        return [table, *detail_tables.build_detail_tables(results, self.lang, self.price)]

    def _write_page_and_figures(
        self, results: "Results", out: Path, images: "ImagesByPath | None"
    ) -> None:
        from bioimg.report import html_page

        images = open_unchanged_images(self.folder, results) if images is None else images
        print(
            f"The page to open first: {html_page.write_page(results, out / 'report.html', self.lang, images)}"
        )
        if self.figures:
            from bioimg.report import figures

            print(
                f"{len(figures.write_figures(results, out / 'figures', lang=self.lang, images=images))} figures in {out / 'figures'}"
            )


@dataclass(frozen=True, kw_only=True)
class VerifyCommand:
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
        from bioimg.verify.verify import verify_file

        documents.require_readable(self.file)  # before results are looked for above it
        verdict = verify_file(
            self.file, open_results(self.results or find_results_folder(self.file))
        )
        terminal.print_verification(self.file, verdict)
        return 1 if verdict.mismatches else 0


def open_results(folder: str | Path) -> "Results":
    """Read results, with weights files shown by their names.

    Raises:
        UserError: there are no results, they are incomplete or damaged, or another version wrote them.
    """
    from bioimg.report.weights_files import shorten_weights_paths
    from bioimg.results import result_store

    try:
        results = result_store.read_results(folder)
    except UserError:
        raise
    except (ValueError, OSError) as error:  # of json and of pyarrow
        raise UserError(
            f"the results in {folder} can't be read: {error}. Copy the folder again, or rerun the experiment."
        ) from error
    return shorten_weights_paths(results)


def open_unchanged_images(folder: str, results: "Results") -> "ImagesByPath":
    """The images that have neither moved nor changed."""
    from bioimg.data.unchanged_images import UnchangedImages
    from bioimg.results.result_store import ResultStore

    return UnchangedImages(
        TrialConfig(**results.manifest["base"]), ResultStore(folder).image_digests()
    )


@contextlib.contextmanager
def _output_folder(folder: str, out: Path | None) -> Iterator[Path]:
    """Where documents are written: beside the results; for an object store, a temporary folder that is uploaded afterwards."""
    from bioimg.storage.filesystem import is_remote, join_path, open_storage

    if out or not is_remote(folder):
        yield out or Path(folder) / "report"
        return
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)
        files = open_storage(folder)
        for file in sorted(path for path in Path(made).rglob("*") if path.is_file()):
            files.write(f"report/{file.relative_to(made).as_posix()}", file.read_bytes())
    print(f"Uploaded to {join_path(folder, 'report')}")


def find_results_folder(file: Path) -> Path:
    """The results folder that a file is in.

    Raises:
        UserError: it isn't in one.
    """
    for folder in file.resolve().parents:
        if (folder / "experiment.json").exists():
            return folder
    raise UserError(f"the file {file} isn't in a results folder. Name the results with --results.")
