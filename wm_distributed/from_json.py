"""Values from JSON as dataclasses, by the types of their fields; reading never runs code.

A field that the dataclass does not have is an error that names it. One that the file does not have,
because the version that saved it had none, gets its default, and that is said.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from wm_distributed.errors import ConfigError

logger = logging.getLogger(__name__)


def decode(hint: Any, value: Any, path: str) -> Any:
    """``value`` as the type that ``hint`` says; ``path`` names the field.

    Raises:
        ConfigError: It does not fit; the field is named.
    """
    origin, args = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(origin or hint):
        return _decode_dataclass(hint, value, path)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _decode_union(args, value, path)
    if origin is Literal and value in args:
        return value
    if origin in (tuple, list) and isinstance(value, list):
        hints = args[:1] * len(value) if origin is list or args[1:] == (...,) else args
        if len(hints) == len(value):
            pairs = enumerate(zip(hints, value, strict=True))
            return origin(decode(h, v, f"{path}[{i}]") for i, (h, v) in pairs)
    if origin is dict and isinstance(value, dict):
        return {key: decode(args[1], item, f"{path}.{key}") for key, item in value.items()}
    if hint is float and type(value) in (int, float):
        return float(value)
    if hint in (int, str, bool, types.NoneType) and type(value) is hint:
        return value
    raise ConfigError(f"{path} must be {_name(hint)}, got {value!r}")


def _decode_union(choices: tuple[Any, ...], value: Any, path: str) -> Any:
    problems = []
    for choice in choices:
        try:
            return decode(choice, value, path)
        except ConfigError as error:
            problems.append(str(error))
    raise ConfigError("; or ".join(problems))


def _decode_dataclass(hint: Any, value: Any, path: str) -> Any:
    cls = get_origin(hint) or hint
    if not isinstance(value, dict):
        raise ConfigError(f"{path or 'it'} must hold the fields of {cls.__name__}, got {value!r}")
    # A generic dataclass (RunConfig[FamilyConfig]) has its parameters put in.
    parameters: dict[Any, Any] = {}
    if get_origin(hint):
        parameters = dict(zip(cls.__parameters__, get_args(hint), strict=True))
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    prefix = f"{path}." if path else ""
    _check_names(fields, set(value), prefix)
    decoded = {}
    for name in (name for name in fields if name in value):
        kind = hints[name]
        kind = parameters[kind] if isinstance(kind, TypeVar) else kind
        decoded[name] = decode(kind, value[name], prefix + name)
    return cls(**decoded)


def _check_names(fields: Mapping[str, Field[Any]], found: set[str], prefix: str) -> None:
    """Names every field that is unknown, with near matches, or missing.

    A missing one that has a default is only warned of: an earlier version may have saved the file.

    Raises:
        ConfigError: There is an unknown one, or a missing one without a default.
    """
    problems, expected = [], set(fields)
    for name in sorted(found - expected):
        near = difflib.get_close_matches(name, sorted(expected), n=1)
        hint = f" (did you mean {prefix}{near[0]}?)" if near else ""
        problems.append(f"unknown field {prefix}{name}{hint}")
    for name in sorted(expected - found):
        if fields[name].default is MISSING and fields[name].default_factory is MISSING:
            problems.append(f"field {prefix}{name} is missing")
        else:
            logger.warning("field %s%s is missing and gets its default", prefix, name)
    if problems:
        raise ConfigError("; ".join(problems))


def _name(hint: Any) -> str:
    if hint is types.NoneType:
        return "null"
    if get_origin(hint) is Literal:
        return " or ".join(repr(choice) for choice in get_args(hint))
    return hint.__name__ if isinstance(hint, type) and not get_args(hint) else str(hint)
