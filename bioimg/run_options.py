"""How and where an experiment runs."""

from dataclasses import dataclass

from bioimg.config import config_field, validate_fields
from bioimg.errors import UserError


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """Choose how and where an experiment runs. Nothing here changes a number in the table."""

    out: str | None = config_field(
        None,
        "Results folder or s3://bucket/path; existing results of this experiment are kept, and "
        "only missing trials are run",
        metavar="DIR|s3://...",
        default_hint="results/NAME",
    )
    lanes: int | None = config_field(
        None,
        "Number of trials that run at the same time, each on `workers` devices; more of them than "
        "this machine has GPUs share these and their memory (workers=1), which can be faster for "
        "small images but counts waiting for each other as training time",
        at_least=1,
        metavar="N",
        default_hint="one for each device",
    )
    keep: str = config_field(
        "best",
        "What stays on disk\n"
        "best: weights of completed trials; what --finish needs, highest rungs first, up to a "
        "model per trial and two saved states\n"
        "all: also everything that more epochs can resume from\n"
        "none: no weights",
        choices=("best", "all", "none"),
    )
    local: bool = config_field(
        False, "Run in this process, one trial after another, without Ray: for debugging"
    )
    dashboard: bool = config_field(
        False,
        "Also start Ray's own web page, at http://127.0.0.1:8265 or the next free port; clusters "
        "have their own",
    )
    early_stopping: bool = config_field(
        True,
        "Train every trial to its last epoch",
        default_hint="ASHA stops trials that fall behind",
    )
    finish: tuple[str, ...] | None = config_field(
        None,
        "Afterwards train stopped trials to their last epoch: those with these keys, or all; they "
        "resume where they stopped, or start over if that state wasn't kept, with the same outcome",
        metavar="[KEY ...]",
    )
    track: tuple[str, ...] = config_field(
        (),
        "Also send every epoch to these trackers; TensorBoard files are always written",
        choices=("mlflow", "wandb"),
    )
    external: tuple[str, ...] = config_field(
        (),
        "Afterwards test the recipes on labelled images from elsewhere, as `bioimg evaluate` does "
        "without flags; NAME is what they are called in results",
        metavar="NAME=PATH [...]",
    )
    report: bool = config_field(True, "Write no report; `bioimg report RESULTS` makes it later")

    def __post_init__(self) -> None:
        validate_fields(self)
        if self.local and self.dashboard:
            raise UserError(
                "the value of `dashboard` is True, but must be False with --local, which uses no "
                "Ray. Leave out one of the two."
            )
        if self.external and self.keep == "none":
            raise UserError(
                "the value of `keep` is 'none', but must be 'best' or 'all' with --external, which "
                "needs the weights. Leave out one of the two."
            )
