"""The command line of an experiment, made from the dataclasses: one flag per field; several values make an axis."""

import dataclasses
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from bioimg.config import TrialConfig
from bioimg.errors import UserError
from bioimg.experiment import EarlyStopping, Experiment


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How and where an experiment runs: nothing here changes a number in the table."""

    out: Annotated[
        str | None,
        tyro.conf.arg(metavar="DIR|s3://...", help_behavior_hint="(default: results/NAME)"),
    ] = None
    """Results folder, or s3://bucket/path. Existing results of this experiment are kept; only missing trials are run."""
    lanes: Annotated[
        int | None, tyro.conf.arg(metavar="N", help_behavior_hint="(default: one for each device)")
    ] = None
    """Number of trials that run at the same time, each on `workers` devices."""
    keep: Literal["best", "all", "none"] = "best"
    """What stays on disk.
    best: weights of completed trials; what --finish needs, highest rungs first, up to a model per trial and two saved states.
    all: also everything that more epochs can resume from.
    none: no weights."""
    local: bool = False
    """Run in this process, one trial after another, without Ray: for debugging."""
    # the help of a flag that is on by default is shown for --no-...
    early_stopping: Annotated[
        bool, tyro.conf.arg(help_behavior_hint="(default: ASHA stops trials that fall behind)")
    ] = True
    """Train every trial to its last epoch."""
    finish: Annotated[
        tuple[str, ...] | None,
        tyro.conf.arg(metavar="[KEY ...]", help_behavior_hint="(default: none)"),
    ] = None
    """Afterwards train stopped trials to their last epoch: those with these keys, or all.
    They resume where they stopped, or start over if that state wasn't kept; the outcome is the same."""
    track: Annotated[
        tuple[Literal["mlflow", "wandb"], ...],
        tyro.conf.arg(metavar="{mlflow,wandb} [...]", help_behavior_hint="(none)"),
    ] = ()
    """Also send every epoch to these trackers. TensorBoard files are always written."""

    def __post_init__(self) -> None:
        if self.lanes is not None and self.lanes < 1:
            raise UserError(f"the value of `lanes` is {self.lanes}, but must be `lanes >= 1`.")
        if self.local and self.track:
            raise UserError(
                "the value of `track` must be left out with --local: trackers are updated through Ray."
            )


def parse_experiment_flags(
    experiment: Experiment, args: Sequence[str], *, program: str, description: str
) -> tuple[Experiment, RunOptions]:
    """The experiment as the flags change it. A flag replaces the value of the base trial, or the axis, that it names.

    Raises:
        UserError: a value breaks its field's rule.
        SystemExit: --help, or a flag that doesn't exist, which tyro has reported by then.
    """
    flags: Any = tyro.cli(
        _flags_dataclass(experiment),
        args=list(args),
        prog=program,
        description=description,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
    )
    given = {
        field.name: getattr(flags.trial, field.name) for field in dataclasses.fields(TrialConfig)
    }
    values = {
        name: value if isinstance(value, tuple) else (value,) for name, value in given.items()
    }
    return _apply_flags(
        experiment, values, _early_stopping_from_flags(experiment, flags.rule), flags.settings
    ), flags.settings


def _early_stopping_from_flags(experiment: Experiment, given: Any) -> EarlyStopping | None:
    """The experiment's own rule, or none, unless a flag asks for another."""
    rule = EarlyStopping(
        **{field.name: getattr(given, field.name) for field in dataclasses.fields(EarlyStopping)}
    )
    return (
        experiment.early_stopping
        if rule == (experiment.early_stopping or EarlyStopping())
        else rule
    )


def _apply_flags(
    experiment: Experiment,
    values: dict[str, tuple[Any, ...]],
    rule: EarlyStopping | None,
    settings: RunOptions,
) -> Experiment:
    names = [*experiment.axes, *(name for name in values if name not in experiment.axes)]
    axes = {name: values[name] for name in names if len(values[name]) > 1}
    base = {name: chosen[0] for name, chosen in values.items() if len(chosen) == 1}
    first = {name: chosen[0] for name, chosen in axes.items()}
    changed = dataclasses.replace(
        experiment,
        base=dataclasses.replace(experiment.base, **base, **first),
        axes=axes,
        early_stopping=rule if settings.early_stopping else None,
    )
    every = changed.base.folds and not values["fold"]
    return changed.with_fold_axis(changed.base.folds) if every else changed


def _flags_dataclass(experiment: Experiment) -> type:
    """A dataclass for tyro whose defaults are the experiment's values."""
    fields = [_trial_flag(field, experiment) for field in dataclasses.fields(TrialConfig)]
    trial = dataclasses.make_dataclass("Trial", fields, frozen=True, kw_only=True)
    trial.__doc__ = (
        "What a trial is. Several values make an axis: every combination is a row of the table."
    )
    rule = dataclasses.make_dataclass(
        "Rule", _early_stopping_flags(experiment), frozen=True, kw_only=True
    )
    rule.__doc__ = (
        "Early stopping (ASHA): which trials continue, and which others they are compared with."
    )
    return dataclasses.make_dataclass(
        "Flags",
        [
            ("trial", trial, dataclasses.field(default_factory=trial)),
            ("rule", rule, dataclasses.field(default_factory=rule)),
            ("settings", RunOptions, dataclasses.field(default_factory=RunOptions)),
        ],
        frozen=True,
    )


def _early_stopping_flags(experiment: Experiment) -> list[tuple[str, Any, Any]]:
    """The fields of the rule, each with one value."""
    rule, flags = experiment.early_stopping or EarlyStopping(), []
    for field in dataclasses.fields(EarlyStopping):
        kind = Literal[field.metadata["choices"]] if field.metadata["choices"] else field.type
        flag = Annotated[kind, tyro.conf.arg(help=field.metadata["help"])]  # type: ignore[valid-type]
        flags.append((field.name, flag, dataclasses.field(default=getattr(rule, field.name))))
    return flags


def _trial_flag(field: Any, experiment: Experiment) -> tuple[str, Any, Any]:
    value = getattr(experiment.base, field.name)
    if field.type is bool:  # yes or no for all trials: a flag without a value
        return (
            field.name,
            Annotated[bool, tyro.conf.arg(help=field.metadata["help"])],
            dataclasses.field(default=value),
        )
    unsaid = value is None or (
        field.name == "fold" and value == 0
    )  # --fold 0 differs from no --fold
    default = tuple(experiment.axes.get(field.name, () if unsaid else (value,)))
    kind = next(
        (kind for kind in typing.get_args(field.type) if kind is not type(None)), field.type
    )
    one = (
        "{" + ",".join(field.metadata["choices"]) + "}"
        if field.metadata["choices"]
        else kind.__name__.upper()
    )
    arg = tyro.conf.arg(help=field.metadata["help"], metavar=f"{one} [...]")
    return field.name, Annotated[tuple[kind, ...], arg], dataclasses.field(default=default)  # type: ignore[valid-type]
