"""Open the results and images of a report."""

from pathlib import Path
from typing import TYPE_CHECKING

from bioimg.config import TrialConfig
from bioimg.errors import UserError

if TYPE_CHECKING:
    from bioimg.report.report_context import ImagesByPath
    from bioimg.results.result_store import Results


def open_results(folder: str | Path) -> "Results":
    """Read results, with weights files shown by their names.

    Raises:
        UserError: there are no results, they are incomplete or damaged, or another version wrote
            them.
    """
    from bioimg.report.weights_files import shorten_weights_paths
    from bioimg.results.result_store import read_results

    try:
        results = read_results(folder)
    except UserError:
        raise
    except (ValueError, OSError) as error:  # of json and of pyarrow
        raise UserError(
            f"the results in {folder} can't be read: {error}. Copy the folder again, or rerun the "
            "experiment."
        ) from error
    return shorten_weights_paths(results)


def open_unchanged_images(folder: str, results: "Results") -> "ImagesByPath":
    """Return the images of an experiment that have neither moved nor changed."""
    from bioimg.data.unchanged_images import UnchangedImages
    from bioimg.results.result_store import ResultStore

    base = TrialConfig(**results.manifest["base"])
    return UnchangedImages(base.dataset_config, ResultStore(folder).image_digests())


def find_results_folder(file: Path) -> Path:
    """Return the results folder that a file is in.

    Raises:
        UserError: the file isn't in one.
    """
    for folder in file.resolve().parents:
        if (folder / "experiment.json").exists():
            return folder
    raise UserError(f"the file {file} isn't in a results folder. Name the results with --results.")
