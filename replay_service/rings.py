"""The stored columns of a shard: one preallocated array a column, addressed by row."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from wm_distributed.errors import ReplayError
from wm_distributed.types import ACTION, IS_LAST, Array, Columns

Layout = dict[str, tuple[tuple[int, ...], np.dtype[np.generic]]]
"""Shape and dtype of one step's value, by column."""


def layout_of(columns: Columns) -> Layout:
    """Shape of one step and dtype, by column.

    Raises:
        ReplayError: A column is not a plain array, or their lengths differ or are zero.
    """
    lengths = {name: len(value) for name, value in columns.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise ReplayError(f"a chunk's columns must have one length of at least 1, got {lengths}")
    for name, value in columns.items():
        if value.dtype.hasobject:
            raise ReplayError(f"column {name!r} holds Python objects; give it a numeric dtype")
    return {name: (value.shape[1:], value.dtype) for name, value in columns.items()}


def bytes_per_step(layout: Layout) -> int:
    """Bytes that one step's columns take."""
    return sum(dtype.itemsize * int(np.prod(shape)) for shape, dtype in layout.values())


def chosen_columns(layout: Layout, names: Collection[str], where: str) -> Layout:
    """The part of a layout that is named; all of it where no name is given.

    Raises:
        ReplayError: A column is not stored.
    """
    if missing := set(names) - set(layout):
        raise ReplayError(
            f"{where}: columns {', '.join(sorted(missing))} are not stored; stored are "
            f"{', '.join(sorted(layout))}"
        )
    return {name: layout[name] for name in names or layout}


class Rings:
    """The columns of a layout, each with as many rows as steps can be held."""

    def __init__(self, layout: Layout, columns: Columns, shard: int) -> None:
        """Takes over arrays ``(capacity, …)`` of the layout's columns."""
        self._layout = layout
        self._columns = columns
        self._shard = shard
        self._step_bytes = {name: bytes_per_step({name: layout[name]}) for name in layout}

    def step_bytes(self, names: Collection[str] = ()) -> int:
        """Bytes of one step's columns, those named or all."""
        chosen = chosen_columns(self._layout, names, f"replay shard {self._shard}")
        return sum(self._step_bytes[name] for name in chosen)

    @property
    def nbytes(self) -> int:
        """Allocated bytes."""
        return sum(column.nbytes for column in self._columns.values())

    def check(self, layout: Layout) -> None:
        """Compares a chunk's layout with that of the first chunk.

        Raises:
            ReplayError: They differ; names the column, what was expected and what came.
        """
        if layout == self._layout:
            return
        for name in self._layout.keys() | layout.keys():
            expected, found = self._layout.get(name), layout.get(name)
            if expected != found:
                raise ReplayError(
                    f"replay shard {self._shard}: column {name!r}: expected {_text(expected)} as "
                    f"in the first chunk, got {_text(found)}; all actors must store the same"
                )

    def write(self, first: int, columns: Columns, start: int, stop: int) -> None:
        """Copies the chunk's steps ``[start, stop)`` to the rows from ``first``."""
        for name, ring in self._columns.items():
            ring[first : first + stop - start] = columns[name][start:stop]

    def truncate(self, row: int) -> bool:
        """Marks a step as the last of its episode, as if the time had run out there.

        Its action becomes zero, because it led nowhere that is known.

        Returns:
            False if the steps have no ``is_last``, or it is set already.
        """
        is_last = self._columns.get(IS_LAST)
        if is_last is None or is_last[row]:
            return False
        is_last[row] = True
        if ACTION in self._columns:
            self._columns[ACTION][row] = 0
        return True

    def gather(self, rows: Array, names: Collection[str] = ()) -> Columns:
        """Copies of rows ``(b, L)``: columns ``(b, L, …)``, those named or all.

        Raises:
            ReplayError: A column is not stored.
        """
        layout = chosen_columns(self._layout, names, f"replay shard {self._shard}")
        return {name: self._columns[name].take(rows, axis=0) for name in layout}

    def check_update(self, columns: Mapping[str, Array], num_rows: int) -> None:
        """Checks new values of ``num_rows`` rows.

        Raises:
            ReplayError: A column is not stored, or is of another shape or kind of dtype.
        """
        for name, values in columns.items():
            if name not in self._layout:
                raise ReplayError(
                    f"replay shard {self._shard}: an update of column {name!r}, which is not "
                    f"stored; stored are {', '.join(sorted(self._layout))}"
                )
            shape, dtype = self._layout[name]
            if values.shape != (num_rows, *shape) or not np.can_cast(
                values.dtype, dtype, "same_kind"
            ):
                raise ReplayError(
                    f"replay shard {self._shard}: an update of column {name!r}: expected "
                    f"{dtype} {(num_rows, *shape)}, got {values.dtype} {values.shape}"
                )

    def update(self, rows: Array, columns: Mapping[str, Array], chosen: Array) -> None:
        """Writes ``columns[name][chosen]`` to ``rows``."""
        for name, values in columns.items():
            self._columns[name][rows] = values[chosen]


def _text(entry: tuple[tuple[int, ...], np.dtype[np.generic]] | None) -> str:
    return "no such column" if entry is None else f"{entry[1]} {entry[0]}"
