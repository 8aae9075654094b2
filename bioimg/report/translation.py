"""Texts for readers in English and Traditional Chinese, from the files of `locale/`.

Values from the data are never translated.
"""

import functools
import tomllib
from collections.abc import Mapping
from importlib import resources

from bioimg.errors import unknown_value_error

LANGUAGES = ("en", "zh-TW")
NAMED_FREEZES = (
    "none",
    "features",
    "head-first",
    "last1",
    "last2",
    "last4",
    "lora4",
    "lora8",
    "lora16",
)
"""Values of `freeze` that have a text of their own; the others are stages of a model."""


def translate(key: str, lang: str, /, **values: object) -> str:
    """Return the text of a key such as `note.source`, with its values filled in.

    Raises:
        UserError: there is no such language.
        KeyError: the catalogue lacks the key, or `values` lacks one that the text shows.
    """
    return read_catalogue(lang)[key].format(**values)


@functools.cache
def read_catalogue(lang: str) -> Mapping[str, str]:
    """Read all texts of a language, by `section.name`.

    Raises:
        UserError: there is no such language.
    """
    if lang not in LANGUAGES:
        raise unknown_value_error("lang", lang, LANGUAGES)
    file = resources.files("bioimg.report") / "locale" / f"{lang.replace('-', '_')}.toml"
    sections = tomllib.loads(file.read_text(encoding="utf-8"))
    return {
        f"{section}.{name}": text
        for section, texts in sections.items()
        for name, text in texts.items()
    }


@functools.cache
def translated_columns() -> tuple[str, ...]:
    """Return the names of all columns with a header."""
    keys = read_catalogue("en")
    return tuple(key.removeprefix("column.") for key in keys if key.startswith("column."))


def column_header(name: str, lang: str) -> str:
    """Return the header of a column, or the name of a column that has no header."""
    return read_catalogue(lang).get(f"column.{name}", name)


def setting_name(field: str, lang: str) -> str:
    """Return what a field of `TrialConfig` is called in the name of a recipe."""
    return translate("setting.freeze", lang) if field == "freeze" else column_header(field, lang)


def setting_value(field: str, value: object, lang: str) -> str:
    """Return the value of a field as readers know it: `head only` instead of `features`."""
    if field != "freeze":
        return str(value)
    if value in NAMED_FREEZES:
        return translate(f"setting.freeze_{value}", lang)
    return translate("setting.freeze_stage", lang, stage=value)


def setting_label(field: str, value: object, lang: str) -> str:
    """Return a field with its value: `batch 32`, `trained: head only`."""
    text = setting_value(field, value, lang)
    if field == "freeze":
        return translate("setting.freeze_value", lang, value=text)
    return translate("setting.value", lang, name=setting_name(field, lang), value=text)
