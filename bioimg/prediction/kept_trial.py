"""Choose a completed trial, and load the model that it kept."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bioimg.config import TrialConfig
from bioimg.errors import UserError, unknown_value_error

if TYPE_CHECKING:
    import torch

    from bioimg.data.image_set import ScalingLimits
    from bioimg.models.checked_safetensors import SavedModel
    from bioimg.results.result_store import Results, ResultStore
    from bioimg.training.class_maps import ClassMapper
    from bioimg.training.inference import TrialPredictor, TypicalityRater


def select_trial_key(results: "Results", key: str | None) -> str:
    """Return the key of the completed trial to use.

    By default it is a trial of the best configuration, with the chosen values of tuned fields: of
    its repeats the one with the lowest validation loss.

    Raises:
        UserError: that trial isn't completed, or none is.
    """
    from bioimg.results import statistics
    from bioimg.results.chosen_values import chosen_results

    best = statistics.best_configuration(chosen_results(results))
    if best is None:
        raise UserError(
            "the value of `folder` must be results with a completed trial, but there is none. Run "
            "the experiment."
        )
    if key is None:
        return select_run_keys(results, best)[0]
    completed = results.trials[results.trials["status"].eq("completed")]
    if key not in set(completed["key"]):
        raise unknown_value_error("key", key, completed["key"], "These trials are completed.")
    return key


def select_run_keys(results: "Results", key: str) -> list[str]:
    """Return the keys of all completed runs of a trial's recipe, the lowest validation loss first.

    They differ in seed and fold and, with tuned fields, in the values that folds chose.
    """
    from bioimg.results.chosen_values import chosen_results
    from bioimg.results.configurations import configuration_keys

    chosen = chosen_results(results).trials
    if key not in set(chosen["key"]):
        # of a value that wasn't chosen
        return [key]
    configurations = configuration_keys(chosen, results.tuned_fields)
    is_run = configurations.eq(configurations[chosen["key"].eq(key)].iloc[0])
    runs = chosen[is_run & chosen["status"].eq("completed")]
    return runs.sort_values("best_val_loss", kind="stable")["key"].tolist()


def format_trial(results: "Results", key: str) -> str:
    """Return the model of a trial and the settings in which it differs from others."""
    from bioimg.results.configurations import REPEAT_FIELDS, varying_fields

    row = results.trials.set_index("key").loc[key]
    names = (
        "model",
        "weights",
        "freeze",
        *varying_fields(results.trials, tuned=()),
        *REPEAT_FIELDS,
    )
    return " ".join(f"{name}={row[name]}" for name in dict.fromkeys(names))


@dataclass(frozen=True, kw_only=True, eq=False)
class KeptTrial:
    """A completed trial with the model that it kept, and how and where that computes."""

    trial: TrialConfig
    saved_model: "SavedModel"
    dtype: "torch.dtype"
    device: "torch.device"

    @classmethod
    def load(cls, store: "ResultStore", key: str) -> "KeptTrial":
        import torch

        from bioimg.training import checkpoints, precision

        row: Mapping[str, Any] = store.tables.trial_rows("trials", key)[0]
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return cls(
            trial=TrialConfig.from_row(row),
            saved_model=checkpoints.load_best_model(store.storage, store.checkpoint_folder(key)),
            dtype=precision.prediction_dtype(row, device),
            device=device,
        )

    @property
    def scaling_limits(self) -> "ScalingLimits | None":
        """The intensities that training mapped to 0 and 255, per channel; None if it didn't."""
        return self.saved_model.scaling_limits

    @functools.cached_property
    def predictor(self) -> "TrialPredictor":
        from bioimg.training.inference import TrialPredictor

        return TrialPredictor(self.saved_model, self.trial, self.dtype, self.device)

    def make_mapper(self) -> "ClassMapper":
        """Return what says where the model finds what raises the score of a class.

        Raises:
            UserError: it has no maps.
        """
        from bioimg.training.class_maps import ClassMapper

        return ClassMapper(self.saved_model, self.trial, self.device)

    def make_rater(self, subsets: Mapping[str, str]) -> "TypicalityRater":
        """Return what compares images with those of the experiment, whose subsets are given.

        Raises:
            UserError: these aren't where they were.
        """
        from bioimg.data.inference_images import load_experiment_images
        from bioimg.training.inference import TypicalityRater

        known, _ = load_experiment_images(self.trial.dataset_config, self.scaling_limits)
        known_subsets = [subsets.get(digest) for digest in known.digests]
        return TypicalityRater(
            self.saved_model, self.trial, known, known_subsets, self.dtype, self.device
        )


def subset_by_digest(store: "ResultStore", trials: Sequence[TrialConfig]) -> dict[str, str]:
    """Return the subset that each image of some trials was in, by the digest of its pixels.

    Of exact copies in several subsets, and of one image in several folds, training comes before
    validation, and that before the test.
    """
    from bioimg.experiment import SPLIT_FIELDS

    splits = {tuple(getattr(trial, name) for name in SPLIT_FIELDS) for trial in trials}
    rows = [
        row
        for row in store.read_assignments().to_pylist()
        if tuple(row[name] for name in SPLIT_FIELDS) in splits
    ]
    subsets: dict[str, str] = {}
    for subset in ("test", "val", "train"):
        subsets |= {row["digest"]: subset for row in rows if row["subset"] == subset}
    return subsets
