"""The command `bioimg predict`: the winner on new images. Most imports happen when it runs, so that its help is instant."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import Progress as Bar

from bioimg.config import TrialConfig
from bioimg.errors import UserError, unknown_value_error

if TYPE_CHECKING:
    import pandas as pd

    from bioimg.results.result_store import Results, ResultStore


def select_trial_key(results: "Results", key: str | None) -> str:
    """The completed trial with this key; by default that of the best configuration, of its repeats the best by validation.

    Raises:
        UserError: that trial isn't completed, or none is.
    """
    from bioimg.results import statistics
    from bioimg.results.configurations import configuration_keys

    completed = results.trials[results.trials["status"].eq("completed")]
    best = statistics.best_configuration(results)
    if best is None:
        raise UserError(
            "the value of `folder` must be results with a completed trial, but there is none. Run the experiment."
        )
    if key is not None and key not in set(completed["key"]):
        raise unknown_value_error("key", key, completed["key"], "These trials are completed.")
    repeats = completed[configuration_keys(results.trials)[completed.index].eq(best)]
    return key or str(repeats.set_index("key")["best_val_loss"].idxmin())


def format_trial(results: "Results", key: str) -> str:
    """The model of a trial, and the settings in which it differs from others of its experiment."""
    from bioimg.results.configurations import REPEAT_FIELDS, varying_fields

    row, names = (
        results.trials.set_index("key").loc[key],
        ("model", "weights", "freeze", *varying_fields(results.trials), *REPEAT_FIELDS),
    )
    return " ".join(f"{name}={row[name]}" for name in dict.fromkeys(names))


def predict_images(folder: str, key: str, place: Path) -> "tuple[pd.DataFrame, dict[str, str]]":
    """A row for each image that can be read, and why others can't, by path.

    Raises:
        UserError: as `run`.
    """
    import pandas as pd
    import torch

    from bioimg.data.inference_images import load_unlabelled_images
    from bioimg.results.result_store import ResultStore
    from bioimg.training import checkpoints, inference

    store = ResultStore(folder)
    row: Mapping[str, Any] = store.tables.trial_rows("trials", key)[0]
    trial, saved = (
        TrialConfig.from_row(row),
        checkpoints.load_best_model(store.storage, store.checkpoint_folder(key)),
    )
    scaling = saved.metadata.get("scaling")
    limits = tuple((low, high) for low, high in scaling) if scaling else None
    with Bar(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading images", total=None)

        def show(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        images, unreadable = load_unlabelled_images(place, trial.dataset_config, limits, show)
    device, dtype = (
        torch.device("cuda" if torch.cuda.is_available() else "cpu"),
        getattr(torch, row["precision_used"]),
    )
    chances = inference.predict_probabilities(saved, trial, images, dtype, device)
    classes = saved.metadata["classes"]
    table = pd.DataFrame(chances, columns=[f"probability of {name}" for name in classes])
    table.insert(0, "path", images.paths)
    table.insert(1, "prediction", [classes[chosen] for chosen in chances.argmax(1)])
    known = subset_by_digest(store, trial)
    table.insert(2, "part", [known.get(digest) for digest in images.digests])
    return table, unreadable


def subset_by_digest(store: "ResultStore", trial: TrialConfig) -> dict[str, str]:
    """In which part of the experiment each of a trial's images was, by the digest of its pixels: of exact copies in several
    parts, training comes before validation, and that before the test."""
    from bioimg.experiment import SPLIT_FIELDS

    rows = [
        row
        for row in store.read_assignments().to_pylist()
        if all(row[name] == getattr(trial, name) for name in SPLIT_FIELDS)
    ]
    found: dict[str, str] = {}
    for subset in ("test", "val", "train"):
        found |= {row["digest"]: subset for row in rows if row["subset"] == subset}
    return found


def write_predictions(table: "pd.DataFrame", out: Path) -> None:
    """Write a CSV file.

    Raises:
        UserError: it can't be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(out, index=False)
    except OSError as error:
        raise UserError(
            f"the value of `out` is {str(out)!r}, which can't be written: {error}."
        ) from error
