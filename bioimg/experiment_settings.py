"""Change an experiment by settings, from the command line or from `bioimg.compare`."""

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from bioimg.config import TrialConfig
from bioimg.errors import UserError, suggest_closest
from bioimg.experiment import EarlyStopping, Experiment
from bioimg.run_options import RunOptions

Settings = Mapping[str, Any]
"""Values by the names of fields of `TrialConfig`, `EarlyStopping` and `RunOptions`."""


def apply_settings(experiment: Experiment, settings: Settings) -> tuple[Experiment, RunOptions]:
    """Return the experiment with these settings, and how it runs.

    A setting of trials replaces the value of the base trial or the axis with its name. Several
    values make an axis; no value at all leaves the experiment as it is.

    Raises:
        UserError: there is no such setting, or a value has another type or breaks its field's rule.
    """
    _check_names(settings)
    trial_values = {
        name: values
        for name, value in _select_settings(TrialConfig, settings).items()
        if (values := _as_tuple(value))
    }
    for field in dataclasses.fields(TrialConfig):
        for value in trial_values.get(field.name, ()):
            _check_type(field.name, value, field.type)
    options = RunOptions(**_typed_settings(RunOptions, settings))
    rule = _change_early_stopping(experiment, _typed_settings(EarlyStopping, settings))
    changed = _change_trials(experiment, trial_values)
    changed = dataclasses.replace(changed, early_stopping=rule if options.early_stopping else None)
    return changed, options


def _check_names(settings: Settings) -> None:
    known = [
        field.name
        for config in (TrialConfig, EarlyStopping, RunOptions)
        for field in dataclasses.fields(config)
    ]
    for name in settings:
        if name not in known:
            raise UserError(
                f"there is no setting `{name}`.{suggest_closest(name, known)} "
                "`bioimg compare --help` explains all settings."
            )


def _select_settings(config: type, settings: Settings) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(config)]
    return {name: settings[name] for name in names if name in settings}


def _typed_settings(config: type, settings: Settings) -> dict[str, Any]:
    """Return the settings of a config; a field that holds several values also takes one."""
    typed = {}
    selected = _select_settings(config, settings)
    for field in dataclasses.fields(config):
        if field.name not in selected:
            continue
        value = selected[field.name]
        holds_several = tuple in _types_of(field.type) and value is not None
        typed[field.name] = _as_tuple(value) if holds_several else _as_plain(value)
        _check_type(field.name, typed[field.name], field.type)
    return typed


def _as_tuple(value: object) -> tuple[Any, ...]:
    """Return the values of an axis; a text is one value."""
    if isinstance(value, Iterable) and not isinstance(value, str | PurePath):
        return tuple(_as_plain(item) for item in value)
    return (_as_plain(value),)


def _as_plain(value: Any) -> Any:
    """Return a path as a text and a NumPy scalar as a number of Python."""
    if isinstance(value, PurePath):
        return str(value)
    if type(value).__module__ == "numpy":
        return value.item()
    return value


def _types_of(annotation: Any) -> list[type]:
    """Return the classes that a field's type allows."""
    if isinstance(annotation, types.UnionType):
        members = typing.get_args(annotation)
    else:
        members = (annotation,)
    return [typing.get_origin(member) or member for member in members]


def _check_type(name: str, value: object, annotation: Any) -> None:
    allowed = _types_of(annotation)
    if float in allowed:
        allowed.append(int)
    # a bool is an int for Python, but seed=True is a mistake
    is_misplaced_bool = isinstance(value, bool) and bool not in allowed
    if is_misplaced_bool or not isinstance(value, tuple(allowed)):
        names = " or ".join(kind.__name__.replace("NoneType", "None") for kind in allowed)
        raise UserError(f"the value of `{name}` is {value!r}, but must be of type {names}.")


def _change_trials(experiment: Experiment, values: Mapping[str, tuple[Any, ...]]) -> Experiment:
    given_axes = {name: axis for name, axis in values.items() if len(axis) > 1}
    given_base = {name: axis[0] for name, axis in values.items() if len(axis) == 1}
    axes = {name: axis for name, axis in experiment.axes.items() if name not in given_base}
    axes |= given_axes
    # the base trial lies on every axis
    first_on_axes = {name: axis[0] for name, axis in axes.items()}
    base = dataclasses.replace(experiment.base, **{**given_base, **first_on_axes})
    changed = dataclasses.replace(experiment, base=base, axes=axes)
    names_folds = "fold" in values or "fold" in axes or base.fold > 0
    if base.folds and not names_folds:
        return changed.with_fold_axis(base.folds)
    return changed


def _change_early_stopping(experiment: Experiment, given: Settings) -> EarlyStopping | None:
    """Return the experiment's own rule, which may be none, unless the settings give another."""
    own_rule = experiment.early_stopping or EarlyStopping()
    rule = dataclasses.replace(own_rule, **given)
    return experiment.early_stopping if rule == own_rule else rule
