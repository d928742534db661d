"""What a validation error means, in one short sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from workflow_scripts.core.errors import UserError, short
from workflow_scripts.core.files import read_json
from workflow_scripts.study.config.base import LIMIT, KeyPath, Problem, Settings

Model = TypeVar("Model", bound=BaseModel)

LONGEST_TEXT = 1500
_KINDS = {
    "int_type": "a whole number", "float_type": "a number", "finite_number": "a finite number", "string_type": "text",
    "bool_type": "true or false", "list_type": "a list", "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
}  # fmt: skip
_BOUNDS = {
    "greater_than_equal": ("is less than the minimum of", "ge"),
    "less_than_equal": ("is greater than the maximum of", "le"),
    "greater_than": ("is not greater than", "gt"),
    "less_than": ("is not less than", "lt"),
    "multiple_of": ("is not a multiple of", "multiple_of"),
}


def problems_of(error: ValidationError, model: type[Settings]) -> Iterator[Problem]:
    """The path and the meaning of every wrong value that `model` found; not what its cross-checks found."""
    for details in error.errors(include_url=False):
        if details["type"] != "inconsistent":
            path, section = follow(model, details["loc"])
            yield path, meaning(dict(details), section)[:LONGEST_TEXT]


def meaning(details: dict[str, Any], section: Any) -> str:
    """One sentence for an error of pydantic; `section` is where an unknown key was found."""
    kind, value, context = details["type"], details["input"], details.get("ctx", {})
    if kind in ("extra_forbidden", "invalid_key"):
        return f"unknown key {short(details['loc'][-1])}; known here: {', '.join(sorted(section.model_fields))}"
    if kind == "missing":
        return "this key is required"
    if kind in _KINDS:
        return f"{short(value)} is not {_KINDS[kind]}{_hint(kind, value)}"
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        if kind == "less_than" and context[bound] == LIMIT:
            return f"{short(value)} is too large: numbers end below 2^63"
        return f"{short(value)} {words} {context[bound]:g}"
    if kind == "literal_error":
        return f"{short(value)} is not one of {context['expected'].replace(' or ', ', ')}"
    if kind == "string_pattern_mismatch":
        return f"{short(value)} does not match {context['pattern']}"
    if kind in ("too_short", "too_long"):
        bound, words = ("min_length", "at least") if kind == "too_short" else ("max_length", "at most")
        return f"{short(value)} has {context['actual_length']} entries; there must be {words} {context[bound]}"
    if kind == "string_too_short":
        return f"{short(value)} is too short"
    if kind == "string_too_long":
        return f"{short(value)} is longer than {context['max_length']} characters"
    return str(details["msg"])


def _hint(kind: str, value: Any) -> str:
    if kind == "int_type" and isinstance(value, float) and value.is_integer():
        return "; write it without a decimal point"
    if kind not in ("int_type", "float_type") or not isinstance(value, str):
        return ""
    if kind == "float_type" and "e" in value.lower():
        return " (YAML reads 1e-5 as text; write 1.0e-5)"
    return " (it is text; write it without quotes)" if value.strip("-").isdigit() else ""


def follow(model: type[Settings], location: tuple[str | int, ...]) -> tuple[KeyPath, Any]:
    """The part of pydantic's location that consists of keys, and the section in which the last of them lies.

    Pydantic adds the members of unions, and `[key]` where the key of a mapping is meant.
    """
    path: list[str | int] = []
    section: Any = None
    kind: Any = model
    for part in location:
        kind = bare(kind)
        if part == "[key]":
            break
        if is_settings(kind):
            section = kind
            field = kind.model_fields.get(part) if isinstance(part, str) else None
            kind = field.annotation if field else None
        elif get_origin(kind) is dict:
            kind = get_args(kind)[1]
        elif get_origin(kind) is list:
            kind = get_args(kind)[0]
        else:
            break
        path.append(part)
    return tuple(path), section


def bare(kind: Any) -> Any:
    """A type without what `Annotated` says about it, and without the None of a key that may be left out."""
    while get_origin(kind) in (Annotated, Union, UnionType):
        members = [member for member in get_args(kind) if member is not NoneType]
        if get_origin(kind) is not Annotated and len(members) > 1:
            break
        kind = members[0]
    return kind


def is_settings(kind: Any) -> bool:
    """Whether a type is a section."""
    return isinstance(kind, type) and issubclass(kind, Settings)


def read_model(path: Path, model: type[Model], problem: str, remedy: str) -> Model:
    """The JSON file `path` as an instance of a model; `UserError` with the problem, the first wrong key and the remedy."""
    try:
        return model.model_validate(read_json(path))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "top level"
        raise UserError(f"{path} {problem} ({where[:100]}: {first['msg'][:200]}); {remedy}") from None
