import dataclasses

import pytest

from bioimg.config import FIELDS, TrialConfig, UserError
from bioimg.results import schema


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"batch_size": 0}, "the value of `batch_size` is 0, but must be `batch_size >= 1`"),
        ({"learning_rate": 0.0}, "the value of `learning_rate` is 0.0, but must be `learning_rate > 0`"),
        ({"augmentation": "dihedrall"}, "Did you mean 'dihedral'?"),
        ({"split": "random"}, "the value of `split` is 'random', but must be one of: stratified, grouped, folder"),
        ({"batch_size": 9, "workers": 2}, "`batch_size` is 9, but must be a multiple of `workers`, which is 2"),
    ],
)
def test_a_value_that_breaks_its_rule_is_named_with_the_rule(fields, text):
    with pytest.raises(UserError) as error:
        TrialConfig(**fields)
    assert text in str(error.value)


def test_trials_that_differ_in_any_field_but_the_place_of_the_data_have_different_keys():
    base = TrialConfig()
    changed = {"group_pattern": "(a)", "weights": "none", "freeze": "features", "model": "resnet18", "workers": 2}
    for name in set(FIELDS) - {"data"}:
        old = getattr(base, name)
        rule = next(field for field in dataclasses.fields(TrialConfig) if field.name == name).metadata
        other = (
            changed.get(name)
            or next((c for c in rule["choices"] if c != old), None)
            or (not old if isinstance(old, bool) else 1)
        )
        if isinstance(old, int | float) and not isinstance(old, bool) and name not in changed:
            other = old * 2 or 1
        assert dataclasses.replace(base, **{name: other}).key != base.key, name


def test_the_key_does_not_depend_on_where_the_images_lie():
    assert TrialConfig(data="a").key == TrialConfig(data="b").key


def test_a_field_at_its_default_is_not_part_of_the_key_so_that_new_fields_keep_old_rows():
    assert TrialConfig(seed=0).key == TrialConfig().key


def test_every_field_is_a_column_of_the_table():
    assert set(FIELDS) <= set(schema.TRIALS.names)
