"""Whether a saved state fits a model, by the shapes of all its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

_MAX_NAMED = 5


def shapes(state: object) -> object:
    """A state with each tensor replaced by its shape, which says whether another one fits."""
    if isinstance(state, Mapping):
        return {key: shapes(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [shapes(value) for value in state]
    return tuple(state.shape) if hasattr(state, "shape") else type(state).__name__


def misfits(state: object, own: object) -> str:
    """What of a state does not fit a model, whose shapes are ``own``; the first ones by name."""
    there, here = dict(_named(shapes(state))), dict(_named(own))
    names = [name for name in {**here, **there} if there.get(name) != here.get(name)]
    if not names:
        return "it is of another environment, or of one with other observations or actions"
    listed = [
        f"{name} has {there.get(name, 'nothing')} there and {here.get(name, 'nothing')} here"
        for name in names[:_MAX_NAMED]
    ]
    more = [f"and {len(names) - _MAX_NAMED} more"] if len(names) > _MAX_NAMED else []
    return ", ".join([*listed, *more])


def _named(shape: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Every shape in a state's shapes, under the keys and numbers that lead to it."""
    if not isinstance(shape, dict | list):
        yield path, str(shape)
        return
    for key, part in shape.items() if isinstance(shape, dict) else enumerate(shape):
        yield from _named(part, f"{path}.{key}" if path else str(key))
