"""The command line of an experiment, made from the dataclasses: one flag per field."""

import dataclasses
import typing
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import tyro

from bioimg.cli.help_hints import format_default
from bioimg.config import EXPERIMENT_FIELDS, TrialConfig
from bioimg.experiment import EarlyStopping, Experiment
from bioimg.experiment_settings import apply_settings, other_models_defaults, setting_fields
from bioimg.run_options import RunOptions

Flag = tuple[str, Any, Any]
"""Name, annotated type and default of a field for `dataclasses.make_dataclass`."""


def parse_experiment_flags(
    experiment: Experiment, args: Sequence[str], *, program: str, description: str
) -> tuple[Experiment, RunOptions]:
    """Return the experiment as the flags change it, and how it runs.

    A flag replaces the value of the base trial or the axis with its name.

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
    groups = (getattr(flags, field.name) for field in dataclasses.fields(flags))
    settings: dict[str, Any] = {}
    for group in groups:
        settings |= vars(group)
    return apply_settings(experiment, settings)


def _flags_dataclass(experiment: Experiment) -> type:
    """Return a dataclass for tyro whose defaults are the experiment's values."""
    trial_flags = [_trial_flag(field, experiment) for field in dataclasses.fields(TrialConfig)]
    rule = experiment.early_stopping or EarlyStopping()
    groups = (
        _flag_group(
            "Trial",
            "Several values of a setting make an axis: every combination is a row of the table.",
            trial_flags,
        ),
        _flag_group(
            "Comparison",
            "Settings that each recipe may have at its own best value, so that none is compared "
            "at a value that suits another; and how the images of a patient or slide count.",
            _comparison_flags(experiment),
        ),
        _flag_group(
            "Early stopping",
            "Which trials continue (ASHA), and which others they are compared with.",
            [_single_flag(field, rule) for field in dataclasses.fields(EarlyStopping)],
        ),
        _flag_group(
            "Run",
            "How and where the experiment runs; nothing here changes a number in the table.",
            [_single_flag(field, RunOptions()) for field in dataclasses.fields(RunOptions)],
        ),
    )
    return dataclasses.make_dataclass("Flags", groups, frozen=True)


def _comparison_flags(experiment: Experiment) -> list[Flag]:
    """Return the flags of an experiment. Without `tune`, its own fields are tuned."""
    flags = []
    for field in setting_fields(Experiment):
        name, flag, default = _single_flag(field, experiment)
        if name == "tune":
            hint = ", ".join(experiment.tune) or "none"
            texts = tyro.conf.arg(
                help=field.metadata["help"],
                metavar=field.metadata["metavar"],
                help_behavior_hint=f"(default: {hint})",
            )
            flag = Annotated[tuple[str, ...] | None, texts]
            default = dataclasses.field(default=None)
        flags.append((name, flag, default))
    return flags


def _flag_group(title: str, description: str, flags: list[Flag]) -> Flag:
    group = dataclasses.make_dataclass(title.replace(" ", ""), flags, frozen=True, kw_only=True)
    group.__doc__ = description
    # tyro makes the group's title from this name
    return title.replace(" ", "_"), group, dataclasses.field(default_factory=group)


def _trial_flag(field: dataclasses.Field[Any], experiment: Experiment) -> Flag:
    """Return the flag of a field that can be an axis; a switch has one value for all trials."""
    value = getattr(experiment.base, field.name)
    if field.type is bool:
        return _single_flag(field, experiment.base)
    # without --fold, all folds run; with --fold 0, the first one does
    is_unset = value is None or (field.name == "fold" and value == 0)
    own_values = () if is_unset else (value,)
    default = tuple(experiment.axes.get(field.name, own_values))
    shown_default = None
    if others := other_models_defaults(experiment).get(field.name):
        # left open, since values of the experiment fit its own models only
        shown_default = f"{_join(default)}; of any other --model: {_join(others)}"
        default = ()
    kind = _type_without_none(field)
    metavar = _value_metavar(field)
    if keywords := field.metadata["keywords"]:
        kind |= Literal[keywords]  # type: ignore[valid-type]
        metavar = "|".join((metavar, *keywords))
    if field.name not in EXPERIMENT_FIELDS:
        metavar += " [...]"
    texts = _flag_texts(field, metavar, shown_default)
    flag = Annotated[tuple[kind, ...], texts]  # type: ignore[valid-type]
    return field.name, flag, dataclasses.field(default=default)


def _single_flag(field: dataclasses.Field[Any], config: Any) -> Flag:
    """Return the flag of a field with one value, or with several that aren't an axis."""
    kind: Any = field.type
    choices = field.metadata["choices"]
    holds_several = typing.get_origin(_type_without_none(field)) is tuple
    if choices:
        choice = Literal[choices]  # type: ignore[valid-type]
        kind = tuple[choice, ...] if holds_several else choice
    metavar = field.metadata["metavar"]
    if metavar is None and kind is not bool:
        metavar = _value_metavar(field) + (" [...]" if holds_several else "")
    flag = Annotated[kind, _flag_texts(field, metavar)]  # type: ignore[valid-type]
    return field.name, flag, dataclasses.field(default=getattr(config, field.name))


def _flag_texts(
    field: dataclasses.Field[Any], metavar: str | None, default_hint: str | None = None
) -> Any:
    hint = default_hint or field.metadata["default_hint"]
    shown_default = f"(default: {hint})" if hint else format_default
    return tyro.conf.arg(
        help=field.metadata["help"], metavar=metavar, help_behavior_hint=shown_default
    )


def _join(values: Iterable[object]) -> str:
    return " ".join(map(str, values))


def _type_without_none(field: dataclasses.Field[Any]) -> Any:
    kinds = [kind for kind in typing.get_args(field.type) if kind is not type(None)]
    is_optional = type(None) in typing.get_args(field.type)
    return kinds[0] if is_optional else field.type


def _value_metavar(field: dataclasses.Field[Any]) -> str:
    if choices := field.metadata["choices"]:
        return "{" + ",".join(choices) + "}"
    kind = _type_without_none(field)
    if typing.get_origin(kind) is tuple:
        kind = typing.get_args(kind)[0]
    return kind.__name__.upper()
