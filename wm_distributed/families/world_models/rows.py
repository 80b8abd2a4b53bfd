"""Batches filled up with rows of zeros, so that a row's results do not depend on its place.

Where the numbers of a tensor do not fill the processor's vectors, the last ones are computed in
another way and rounded differently; a matrix product of few rows treats each by its alignment.
Then the result of an episode would depend, in its last bits, on its index and on its neighbours.
"""

from __future__ import annotations

from torch import Tensor

ROWS = 32
"""Batches of a multiple of this many rows have no such rest."""


def round_up(num_rows: int, multiple: int = ROWS) -> int:
    """The next multiple, or the number itself."""
    return num_rows + -num_rows % multiple


def fill_rows(tensor: Tensor, num_rows: int) -> Tensor:
    """A tensor ``(N, …)`` with zeros after its rows, ``(num_rows, …)``."""
    filled = tensor.new_zeros(num_rows, *tensor.shape[1:])
    filled[: len(tensor)] = tensor
    return filled
