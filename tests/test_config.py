import dataclasses

import pytest

from bioimg.config import (
    EXPERIMENT_FIELDS,
    TRIAL_FIELDS,
    DatasetConfig,
    ModelConfig,
    SplitConfig,
    TrialConfig,
)
from bioimg.errors import UserError, unknown_value_error
from bioimg.results import schema


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"batch_size": 0}, "the value of `batch_size` is 0, but must be `batch_size >= 1`"),
        (
            {"learning_rate": 0.0},
            "the value of `learning_rate` is 0.0, but must be `learning_rate > 0`",
        ),
        ({"augmentation": "dihedrall"}, "Did you mean 'dihedral'?"),
        (
            {"split": "random"},
            "the value of `split` is 'random', but must be one of: auto, stratified, grouped",
        ),
        (
            {"freeze": "head-first", "epochs": 2},
            "the value of `epochs` is 2, but must be `epochs >= 3` with `freeze` 'head-first'",
        ),
        ({"warmup": 4, "epochs": 4}, "the value of `warmup` is 4, but must be `warmup < 4`"),
        (
            {"warmup": 8, "epochs": 10, "freeze": "head-first"},
            "the value of `warmup` is 8, but must be `warmup < 8`",
        ),
        (
            {"batch_size": 9, "workers": 2},
            "`batch_size` is 9, but must be a multiple of `workers`, which is 2",
        ),
    ],
)
def test_a_value_that_breaks_its_rule_is_named_with_the_rule(fields, text):
    with pytest.raises(UserError) as error:
        TrialConfig(**fields)
    assert text in str(error.value)


def test_only_a_name_that_is_near_is_offered():
    assert "Did you mean" not in str(
        unknown_value_error("freeze", "backbone", ["none", "features", "layer1"])
    )
    assert "Did you mean 'layer1'?" in str(
        unknown_value_error("freeze", "layer9", ["none", "features", "layer1"])
    )


OTHER = {
    **{
        "columns": "path=file",
        "image_size": 96,
        "resize": "crop",
        "channels": "0,1,2",
        "scaling": "range",
        "fold": 1,
    },
    **{
        "skip_unreadable": True,
        "split": "grouped",
        "folds": 5,
        "group_pattern": "(a)",
        "model": "resnet18",
        "weights": "none",
    },
    **{
        "freeze": "features",
        "batch_size": 64,
        "epochs": 2,
        "learning_rate": 0.1,
        "head_rate_factor": 10.0,
        "layer_decay": 0.75,
        "warmup": 1,
        "schedule": "cosine",
        "optimizer": "sgd",
    },
    **{
        "weight_decay": 0.1,
        "augmentation": "none",
        "class_weights": "balanced",
        "sampling": "balanced",
        "seed": 1,
    },
    **{
        "workers": 2,
        "precision": "float32",
        "patience": 3,
        "patience_metric": "val_score",
        "tf32": True,
        "compile": True,
    },
}


@pytest.mark.parametrize("name", sorted(set(TRIAL_FIELDS) - set(EXPERIMENT_FIELDS)))
def test_trials_that_differ_in_any_keyed_field_have_different_keys(name):
    base = TrialConfig(folds=3 if name == "fold" else 0)
    assert dataclasses.replace(base, **{name: OTHER[name]}).key != base.key


def test_the_key_does_not_depend_on_where_the_images_lie():
    assert TrialConfig(data="a").key == TrialConfig(data="b").key


def test_the_key_does_not_depend_on_the_score_of_which_a_results_folder_has_one():
    assert TrialConfig(score="accuracy").key == TrialConfig().key


def test_a_field_at_its_default_is_not_part_of_the_key_so_that_new_fields_keep_old_rows():
    assert TrialConfig(seed=0).key == TrialConfig().key


def test_head_comes_first_for_a_fifth_of_the_epochs_and_at_least_two():
    lengths = (3, 10, 14, 15, 50)
    trials = [TrialConfig(freeze="head-first", epochs=epochs) for epochs in lengths]
    assert [trial.head_epochs for trial in trials] == [2, 2, 2, 3, 10]
    assert [trials[1].trains_head_alone(epoch) for epoch in (1, 2, 3)] == [True, True, False]


def test_every_field_is_a_column_of_the_table():
    assert set(TRIAL_FIELDS) <= set(schema.TRIALS_SCHEMA.names)


def test_a_row_is_its_trial_again_and_what_an_earlier_version_did_not_know_is_at_its_default():
    trial = TrialConfig(weights="none", seed=3, patience=2)
    assert TrialConfig.from_row(dataclasses.asdict(trial)) == trial
    assert TrialConfig.from_row({**dataclasses.asdict(trial), "patience": None}).patience == 0


def test_views_hold_fields_and_defaults_of_a_trial():
    trial = TrialConfig(model="resnet18", image_size=64, split="grouped", data="images")
    assert trial.dataset_config == DatasetConfig(data="images", image_size=64)
    assert trial.split_config == SplitConfig(split="grouped")
    assert trial.model_config == ModelConfig(model="resnet18", image_size=64)
    default = TrialConfig()
    assert default.dataset_config == DatasetConfig(data=default.data)
    assert default.split_config == SplitConfig()
    assert default.model_config == ModelConfig(model=default.model)
