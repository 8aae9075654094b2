"""Help texts of commands: a default is shown only where it says something."""

import dataclasses
import types
import typing
from typing import Annotated, Any, TypeVar

import tyro

CommandT = TypeVar("CommandT")


def format_default(value: str) -> str:
    """Return the text that shows a default; nothing for a switch or for a value that isn't set."""
    return "" if value in ("", "None", "True", "False") else f"(default: {value})"


def with_plain_help(command: type[CommandT]) -> type[CommandT]:
    """Change a command's dataclass so that its help shows no None and no default of a switch."""
    hints = typing.get_type_hints(command, include_extras=True)
    for field in dataclasses.fields(command):  # type: ignore[arg-type]
        texts = tyro.conf.arg(
            metavar=_metavar_without_none(hints[field.name]), help_behavior_hint=format_default
        )
        # tyro takes what comes later in an annotation, so that a field's own texts hold
        command.__annotations__[field.name] = _annotate_first(hints[field.name], texts)
    return command


def _annotate_first(hint: Any, texts: Any) -> Any:
    if typing.get_origin(hint) is Annotated:
        kind, *own = typing.get_args(hint)
        return Annotated[(kind, texts, *own)]
    return Annotated[hint, texts]


def _metavar_without_none(hint: Any) -> str | None:
    """Return the name of a value whose type allows None; None leaves the name to tyro."""
    kind = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
    if not isinstance(kind, types.UnionType) and typing.get_origin(kind) is not typing.Union:
        return None
    member = next(member for member in typing.get_args(kind) if member is not type(None))
    if typing.get_origin(member) is typing.Literal:
        return "{" + ",".join(typing.get_args(member)) + "}"
    return member.__name__.upper()
