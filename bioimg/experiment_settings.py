"""Change an experiment by settings, from the command line or from `bioimg.compare`."""

import dataclasses
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from bioimg.config import AUTO_EPOCHS, TrialConfig
from bioimg.errors import UserError, suggest_closest
from bioimg.experiment import EarlyStopping, Experiment
from bioimg.run_options import RunOptions

OTHER_MODELS_WEIGHTS = ("DEFAULT",)
OTHER_MODELS_RATES = (3e-5, 1e-4, 3e-4, 1e-3)
"""Weights, and learning rates that are tried, of models that an experiment wasn't written for.

The low rates are those with which transformers and modern CNNs are fine-tuned by AdamW: 1e-5 in
DeiT III (Touvron et al. 2022, arXiv:2204.07118), 5e-5 in ConvNeXt (Liu et al. 2022,
arXiv:2201.03545), both with batches of 512. MobileNetV2 and EfficientNet-Lite0 had their lowest
validation loss at 3e-4 or 1e-3 of three rates from 1e-4 on, on real tiles in batches of 32, and so
had heads at ten times these.
"""

Settings = Mapping[str, Any]
"""Values by the names of fields of `TrialConfig`, `EarlyStopping`, `Experiment`, `RunOptions`."""


def apply_settings(experiment: Experiment, settings: Settings) -> tuple[Experiment, RunOptions]:
    """Return the experiment with these settings, and how it runs.

    A setting of trials replaces the value of the base trial or the axis with its name. Several
    values make an axis; no value at all leaves the experiment as it is.

    Models that the experiment doesn't have get their own `DEFAULT` weights and, where rates are
    tuned, other rates, unless some are given.

    A field that the experiment tunes isn't tuned any more if it gets one value and `tune` isn't
    among the settings: what is given is used.

    Raises:
        UserError: there is no such setting, or a value has another type or breaks its field's rule.
    """
    _check_names(settings)
    settings = _expand_auto_epochs(settings)
    trial_values = _with_model_defaults(experiment, _trial_values(settings))
    options = RunOptions(**_typed_settings(RunOptions, settings))
    rule = _change_early_stopping(experiment, _typed_settings(EarlyStopping, settings))
    if not options.early_stopping:
        rule = None
    comparison = _change_comparison(experiment, settings, trial_values)
    untuned = dataclasses.replace(experiment, tune=(), tune_seeds=1)
    changed = _change_trials(untuned, trial_values)
    return dataclasses.replace(changed, early_stopping=rule, **comparison), options


def _check_names(settings: Settings) -> None:
    known = []
    for config in (TrialConfig, EarlyStopping, Experiment, RunOptions):
        known += [field.name for field in setting_fields(config)]
    for name in settings:
        if name not in known:
            raise UserError(
                f"there is no setting `{name}`.{suggest_closest(name, known)} "
                "`bioimg compare --help` explains all settings."
            )


def _expand_auto_epochs(settings: Settings) -> Settings:
    """Return the settings with what `epochs` auto means: a ceiling, and patience on the score."""
    epochs = _as_tuple(settings.get("epochs", ()))
    if "auto" not in epochs:
        return settings
    if len(epochs) > 1:
        raise UserError(
            f"the value of `epochs` is {epochs}, but 'auto' must be the only one: it gives all "
            "trials the same rule. Run the command again for the others."
        )
    if "cosine" in _as_tuple(settings.get("schedule", ())):
        raise UserError(
            "the value of `epochs` is 'auto', but must be a number with `schedule` 'cosine', whose "
            "course depends on it. Give one, or use --schedule constant."
        )
    patience = _as_tuple(settings.get("patience", ()))
    own_patience = {"patience": settings["patience"]} if any(patience) else {}
    return {**settings, **AUTO_EPOCHS, **own_patience}


def setting_fields(config: type) -> list[dataclasses.Field[Any]]:
    """Return the fields of a dataclass that are settings: those made with `config_field`."""
    return [field for field in dataclasses.fields(config) if field.metadata]


def _trial_values(settings: Settings) -> dict[str, tuple[Any, ...]]:
    """Return the values of each field of a trial that the settings give at least one value."""
    trial_values = {}
    for field in dataclasses.fields(TrialConfig):
        values = _as_tuple(settings.get(field.name, ()))
        for value in values:
            _check_type(field.name, value, field.type)
        if values:
            trial_values[field.name] = values
    return trial_values


def _with_model_defaults(
    experiment: Experiment, trial_values: dict[str, tuple[Any, ...]]
) -> dict[str, tuple[Any, ...]]:
    """Return the values with weights and rates for models that the experiment's don't fit."""
    own_models = experiment.axes.get("model", (experiment.base.model,))
    if not set(trial_values.get("model", ())).difference(own_models):
        return trial_values
    return {**other_models_defaults(experiment), **trial_values}


def other_models_defaults(experiment: Experiment) -> dict[str, tuple[Any, ...]]:
    """Return the values, by field, that models have which the experiment doesn't have."""
    defaults: dict[str, tuple[Any, ...]] = {"weights": OTHER_MODELS_WEIGHTS}
    if "learning_rate" in experiment.tune:
        defaults["learning_rate"] = OTHER_MODELS_RATES
    return defaults


def _typed_settings(config: type, settings: Settings) -> dict[str, Any]:
    """Return the settings of a config; a field that holds several values also takes one."""
    typed = {}
    for field in setting_fields(config):
        if field.name not in settings:
            continue
        value = settings[field.name]
        holds_several = tuple in _types_of(field.type) and value is not None
        typed_value = _as_tuple(value) if holds_several else _as_plain(value)
        _check_type(field.name, typed_value, field.type)
        typed[field.name] = typed_value
    return typed


def _as_tuple(value: object) -> tuple[Any, ...]:
    """Return the values of an axis; a text is one value, and a mapping gives NAME=VALUE each."""
    if isinstance(value, Mapping):
        return tuple(f"{name}={_as_plain(item)}" for name, item in value.items())
    if isinstance(value, Iterable) and not isinstance(value, str | PurePath):
        return tuple(map(_as_plain, value))
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
        names = " or ".join(kind.__name__ for kind in allowed).replace("NoneType", "None")
        raise UserError(f"the value of `{name}` is {value!r}, but must be of type {names}.")


def _change_trials(experiment: Experiment, values: Mapping[str, tuple[Any, ...]]) -> Experiment:
    axes = dict(experiment.axes)
    base_values = {}
    for name, axis in values.items():
        if len(axis) == 1:
            axes.pop(name, None)
            base_values[name] = axis[0]
        else:
            axes[name] = axis
    # the base trial lies on every axis
    for name, axis in axes.items():
        base_values[name] = axis[0]
    base = dataclasses.replace(experiment.base, **base_values)
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


def _change_comparison(
    experiment: Experiment, settings: Settings, trial_values: Mapping[str, tuple[Any, ...]]
) -> dict[str, Any]:
    """Return an experiment's own settings; a `tune` of None is the one that it has."""
    own = {field.name: getattr(experiment, field.name) for field in setting_fields(Experiment)}
    given = {name: settings[name] for name in own if settings.get(name) is not None}
    comparison = {**own, **_typed_settings(Experiment, given)}
    if "tune" not in given:
        fixed = [name for name in experiment.tune if len(trial_values.get(name, ())) == 1]
        comparison["tune"] = tuple(name for name in experiment.tune if name not in fixed)
    return comparison
