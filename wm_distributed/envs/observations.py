"""Observations as the border shows them: ``image``, ``vector``, or the keys of a dictionary.

A box of bytes ``(H, W)``, ``(H, W, 1)`` or ``(H, W, 3)`` is a picture: three channels, resized to
the configured size. Every other box becomes a flat ``float32`` vector, a scalar one of length 1,
and a discrete value a one-hot vector. An observation that is not a dictionary is called ``image``
or ``vector`` by what it is; one that is keeps its keys, and inner dictionaries join theirs by
``/``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from gymnasium import Space, spaces

from wm_distributed.envs.resize import AreaResize
from wm_distributed.errors import ConfigError, EnvError
from wm_distributed.types import Array, Columns


@dataclass(frozen=True)
class _Field:
    """One observation key: where it is found, what it must be, and how it crosses the border.

    Whole numbers must be within the limits; floats often leave those of their space a little.
    """

    path: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: type[np.generic]
    box: spaces.Box
    convert: Callable[[Array], Array]
    limits: tuple[Any, Any] = (None, None)


class ObsBorder:
    """Turns raw observations, of one environment or of N at once, into those of the border.

    Attributes:
        spaces: Of the converted observations, by key, sorted.
    """

    def __init__(
        self,
        raw_space: Space[Any],
        image_size: int,
        where: str,
        unused: frozenset[str] = frozenset(),
    ) -> None:
        """Looks at the space once; nothing of it is looked at again.

        Args:
            raw_space: The engine's own, of one environment.
            image_size: Height and width of images.
            where: What messages begin with.
            unused: Keys to leave out.

        Raises:
            ConfigError: A part of the space cannot be shown.
        """
        self._where = where
        self._image_size = image_size
        fields: dict[str, _Field] = {}
        self._collect(raw_space, (), fields)
        self._fields = {key: fields[key] for key in sorted(fields.keys() - unused)}
        self.spaces = {key: field.box for key, field in self._fields.items()}

    def convert(self, raw: Any, lead: tuple[int, ...] = ()) -> Columns:
        """Observations ``(*lead, …)`` at the border; float arrays may still hold NaN.

        Raises:
            EnvError: A value has another shape, a type that cannot become what the space says, or
            is a whole number outside of it.
        """
        return {key: self._take(key, field, raw, lead) for key, field in self._fields.items()}

    def _take(self, key: str, field: _Field, raw: Any, lead: tuple[int, ...]) -> Array:
        for name in field.path:
            if not isinstance(raw, Mapping) or name not in raw:
                found = list(raw) if isinstance(raw, Mapping) else type(raw).__name__
                raise EnvError(f"{self._where}: expected observation key {name!r}, got {found}")
            raw = raw[name]
        value = np.asarray(raw)
        if value.shape != lead + field.shape:
            raise EnvError(
                f"{self._where}: expected observation {key!r} of shape {field.shape}, got "
                f"{value.shape[len(lead) :]}"
            )
        # Another type of pictures would have another range, such as [0, 1].
        casting: Literal["no", "same_kind"] = "no" if field.dtype == np.uint8 else "same_kind"
        if not np.can_cast(value.dtype, field.dtype, casting):
            raise EnvError(
                f"{self._where}: expected observation {key!r} of {field.dtype.__name__}, got "
                f"{value.dtype}"
            )
        low, high = field.limits
        if low is not None and (outside := (value < low) | (value > high)).any():
            raise EnvError(
                f"{self._where}: expected observation {key!r} from {low} to {high}, got "
                f"{value[outside][0]}"
            )
        return field.convert(value)

    def _collect(self, space: Space[Any], path: tuple[str, ...], into: dict[str, _Field]) -> None:
        if isinstance(space, spaces.Dict):
            for name, inner in space.spaces.items():
                self._collect(inner, (*path, name), into)
            return
        shape = space.shape or ()
        if 0 in shape:
            raise ConfigError(
                f"{self._where}: expected observations that hold something, got "
                f"{'/'.join(path)!r} of shape {shape}; a gymnasium.ObservationWrapper can leave it "
                "out"
            )
        field = self._field(space, path)
        key = "/".join(path)
        if not path:
            key = "image" if field.box.dtype == np.uint8 else "vector"
        if not key or key in into:
            beside = f" beside {into[key].path}" if key in into else ""
            raise ConfigError(
                f"{self._where}: expected observations of different names that are not empty, got "
                f"{path} as {key!r}{beside}; a gymnasium.ObservationWrapper can rename it"
            )
        into[key] = field

    def _field(self, space: Space[Any], path: tuple[str, ...]) -> _Field:
        if isinstance(space, spaces.Discrete):
            num, start = int(space.n), int(space.start)
            one_hot = np.eye(num, dtype=np.float32)
            last = start + num - 1
            return _Field(
                path, (), np.int64, _vector(num), lambda x: one_hot[x - start], (start, last)
            )
        if not isinstance(space, spaces.Box | spaces.MultiBinary):
            raise ConfigError(
                f"{self._where}: expected boxes, discrete values and dictionaries of them, got "
                f"{space} as observation {'/'.join(path)!r}; a gymnasium.ObservationWrapper can "
                "leave it out or convert it"
            )
        shape = space.shape
        if space.dtype == np.uint8 and len(shape) in (2, 3) and isinstance(space, spaces.Box):
            return self._picture(shape, path)
        size = int(np.prod(shape))
        dims = len(shape)
        limits: tuple[Any, Any] = (None, None)
        if space.dtype is not None and space.dtype.kind in "iu":
            limits = (0, 1) if isinstance(space, spaces.MultiBinary) else (space.low, space.high)
        return _Field(
            path, shape, np.float32, _vector(size), lambda x: _flat(x, dims, size), limits
        )

    def _picture(self, shape: tuple[int, ...], path: tuple[str, ...]) -> _Field:
        if len(shape) == 3 and shape[2] not in (1, 3):
            raise ConfigError(
                f"{self._where}: expected bytes {'/'.join(path)!r} of shape (H, W), (H, W, 1) or "
                f"(H, W, 3), got {shape}; a gymnasium.ObservationWrapper can move the channels"
            )
        resize = AreaResize(shape[0], shape[1], self._image_size)
        channels = 3 if len(shape) == 3 and shape[2] == 3 else 1
        box = spaces.Box(0, 255, (self._image_size, self._image_size, 3), np.uint8)

        def convert(image: Array) -> Array:
            small = resize(image.reshape(*image.shape[: image.ndim - len(shape)], *shape[:2], -1))
            return small if channels == 3 else small.repeat(3, axis=-1)

        return _Field(path, shape, np.uint8, box, convert)


def _vector(size: int) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, (size,), np.float32)


def _flat(value: Array, dims: int, size: int) -> Array:
    if value.dtype != np.float32:
        with np.errstate(over="ignore"):  # becomes infinite, and is refused as such
            value = value.astype(np.float32)
    return value if dims == 1 else value.reshape(*value.shape[: value.ndim - dims], size)
