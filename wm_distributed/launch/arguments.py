"""Flags made from the configuration dataclasses by tyro: there is no second list of them.

The preset gives every default, the field docstrings are the help, and a nested field is a dotted
flag: ``--replay.ratio 64``, ``--model.rssm.deter 512``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from wm_distributed.config import FamilyConfigT, RunConfig

T = TypeVar("T")
SHORTCUTS = {
    "--runtime": "--runtime.kind",
    "--ray-address": "--runtime.ray-address",
    "--phases": "--pipeline.phases",
    "--from": "--pipeline.source",
    "--rounds": "--pipeline.rounds",
}
_PYTHON_NAMES = {"True": True, "False": False, "None": None}
_REGISTRY = ConstructorRegistry()


@dataclass(frozen=True, kw_only=True)
class ResumeArguments(RunConfig[FamilyConfigT]):
    """A run's configuration on the command line; its origin cannot be changed."""

    family: Annotated[str, tyro.conf.Suppress]
    preset: Annotated[str, tyro.conf.Suppress]

    def __post_init__(self) -> None:
        """Leaves the checks to :meth:`run_config`: tyro would hide a message in its own."""

    def run_config(self) -> RunConfig[Any]:
        """The configuration alone.

        Raises:
            ConfigError: The values cannot work together.
        """
        return RunConfig(**{field.name: getattr(self, field.name) for field in fields(RunConfig)})


@dataclass(frozen=True, kw_only=True)
class TrainArguments(ResumeArguments[FamilyConfigT]):
    """A configuration, and where its run goes."""

    run_dir: Path | None = None
    """New directory of the run; none: the next free number, runs/<preset>-001."""


def parse_train(
    preset: RunConfig[Any], model: type, argv: Sequence[str], prog: str
) -> tuple[RunConfig[Any], Path | None]:
    """The preset with the flags of ``argv``, and the run directory.

    Args:
        preset: Gives the defaults.
        model: The family's configuration class.
        argv: The flags.
        prog: The command, for the help and for messages.

    Raises:
        SystemExit: After ``--help`` (0), or after a message about a flag (2).
        ConfigError: The values cannot work together.
    """
    parsed = parse(
        TrainArguments[model],  # type: ignore[valid-type]
        argv,
        prog=prog,
        default=TrainArguments(**vars(preset)),
        description=_describe(
            f"Begins a run of {preset.preset} ({preset.family} on {preset.env.id})."
        ),
    )
    return parsed.run_config(), parsed.run_dir


def parse_resume(
    saved: RunConfig[Any], model: type, argv: Sequence[str], prog: str
) -> RunConfig[Any]:
    """A saved configuration with the flags of ``argv``; see :func:`parse_train`."""
    parsed = parse(
        ResumeArguments[model],  # type: ignore[valid-type]
        argv,
        prog=prog,
        default=ResumeArguments(**vars(saved)),
        description=_describe(f"Goes on with a run of {saved.preset}; the defaults are its own."),
    )
    return parsed.run_config()


def parse(
    target: Callable[..., T],
    argv: Sequence[str],
    *,
    prog: str,
    config: tuple[Any, ...] = (),
    **options: Any,
) -> T:
    """``target`` called with what the flags say.

    Args:
        target: A function or dataclass; its parameters and their docstrings become flags.
        argv: The flags.
        prog: The command, for the help and for messages.
        config: Further settings of tyro.
        options: Passed to ``tyro.cli``.
    """
    with _REGISTRY:
        # A component that may be none is set by flags, too, where the default has one.
        config = (tyro.conf.AvoidSubcommands, *config)
        result: T = tyro.cli(target, args=_expand(argv), prog=prog, config=config, **options)
    return result


def _describe(text: str) -> str:
    short = ", ".join(SHORTCUTS)
    return f"{text} Every field can be set; {short} are short forms."


def _expand(argv: Sequence[str]) -> list[str]:
    """Puts the full flag in the place of each short form."""
    expanded = []
    for argument in argv:
        flag, equals, value = argument.partition("=")
        expanded.append(SHORTCUTS.get(flag, flag) + equals + value)
    return expanded


@_REGISTRY.primitive_rule
def _none_in_lower_case(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[None] | None:
    """``--replay.ratio none``, as the docstrings write it."""
    if info.type is not NoneType:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="none",
        instance_from_str=lambda _: None,
        is_instance=lambda value: value is None,
        str_from_instance=lambda _: ["none"],
        choices=("none",),
    )


@_REGISTRY.primitive_rule
def _any_as_json(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    """``--env.options grid 5``: values without a type are JSON or Python's names, or else text."""
    if info.type is not Any:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="VALUE",
        instance_from_str=lambda args: _json_or_text(args[0]),
        is_instance=lambda _: True,
        str_from_instance=lambda value: [json.dumps(value)],
    )


def _json_or_text(text: str) -> Any:
    if text in _PYTHON_NAMES:
        return _PYTHON_NAMES[text]
    try:
        return json.loads(text)
    except ValueError:
        return text
