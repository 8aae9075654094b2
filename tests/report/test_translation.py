"""Texts: every key exists in each language, and code and template use no key that doesn't."""

import re
import string
from pathlib import Path

import pytest

import bioimg
from bioimg.config import TRIAL_FIELDS
from bioimg.errors import UserError
from bioimg.report.translation import (
    LANGUAGES,
    column_header,
    read_catalogue,
    setting_label,
    translate,
)

KEY_IN_CALL = re.compile(r"\b(?:text|translate)\(\s*[\"']([a-z]+\.[a-z_]+)[\"']\s*[,)]")
CHECK_IN_CALL = re.compile(r"\b(note|warning)\(\s*[\"']([a-z_]+)[\"']")
SECTIONS = "|".join({key.partition(".")[0] for key in read_catalogue("en")})
KEY_OR_BEGINNING = re.compile(rf"[\"']((?:{SECTIONS})\.[a-z_]*)(?=[{{\"'])")


def placeholders(text: str) -> set[str]:
    return {field for _, field, _, _ in string.Formatter().parse(text) if field is not None}


def source_files() -> list[Path]:
    folder = Path(bioimg.__file__).parent
    return [*folder.rglob("*.py"), folder / "report/page.html"]


def named_keys() -> set[str]:
    """Return the keys that code and template name in full."""
    names = set()
    for file in source_files():
        source = file.read_text(encoding="utf-8")
        names.update(KEY_IN_CALL.findall(source))
        names.update(f"{level}.{code}" for level, code in CHECK_IN_CALL.findall(source))
    return names


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_language_has_the_same_keys_and_placeholders(lang: str):
    english = read_catalogue("en")
    translated = read_catalogue(lang)
    assert list(translated) == list(english)
    for key, text in english.items():
        assert placeholders(translated[key]) == placeholders(text), key


def test_every_key_that_code_names_exists():
    keys = read_catalogue("en")
    assert len(named_keys()) > 100
    assert named_keys() <= set(keys)


def test_every_text_is_named_somewhere_in_code():
    sources = "\n".join(file.read_text(encoding="utf-8") for file in source_files())
    beginnings = tuple(KEY_OR_BEGINNING.findall(sources))
    named = named_keys()
    unnamed = [key for key in read_catalogue("en") if key not in named]
    unused = [key for key in unnamed if not key.startswith(beginnings)]
    looked_up_by_column_or_table = ("column.", "caption.")
    assert [key for key in unused if not key.startswith(looked_up_by_column_or_table)] == []


@pytest.mark.parametrize("lang", LANGUAGES)
def test_every_setting_has_a_header_in_each_language(lang: str):
    assert all(f"column.{field}" in read_catalogue(lang) for field in TRIAL_FIELDS)


def test_chinese_headers_differ_from_the_field_names():
    assert all(column_header(field, "zh-TW") != field for field in TRIAL_FIELDS)


def test_unknown_columns_are_called_by_their_names():
    assert column_header("my_column", "en") == "my_column"


def test_braces_in_values_stay_as_they_are():
    assert translate("note.split", "en", split="{split}") == "Split: {split}."


def test_unknown_languages_are_refused_by_name():
    with pytest.raises(UserError, match=r"`lang` is 'fr', but must be one of: en, zh-TW"):
        translate("note.empty", "fr")


@pytest.mark.parametrize(
    ("value", "english", "chinese"),
    [
        ("none", "trained: all layers", "訓練：全部層"),
        ("features", "trained: head only", "訓練：僅分類層"),
        ("head-first", "trained: head first, then all layers", "訓練：先分類層，再全部層"),
        ("layer2", "trained: layers after layer2", "訓練：layer2 之後各層"),
    ],
)
def test_labels_name_the_layers_that_are_trained(value: str, english: str, chinese: str):
    assert setting_label("freeze", value, "en") == english
    assert setting_label("freeze", value, "zh-TW") == chinese


def test_labels_of_other_settings_are_header_and_value():
    assert setting_label("batch_size", 32, "en") == "batch 32"
