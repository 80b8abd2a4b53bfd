"""CUDA graphs without a GPU: what a call does to memory is recorded, and done again to the same.

As with the real ones, Python does not run in a replay, numbers that it computed are frozen, and
each operation reads and writes the memory that it did when it was recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from wm_distributed.nets.captured import tensors_of

R = TypeVar("R")


class Tape(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the operations that it is active for.

    Raises:
        AssertionError: One of them could not be part of a CUDA graph.
    """

    def __init__(self) -> None:
        """Begins an empty tape."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], Any]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        _refuse(func, args)
        result = func(*args, **(kwargs or {}))
        self._operations.append((func, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        """Does everything again."""
        for func, args, kwargs, recorded in self._operations:
            result = func(*args, **kwargs)
            for old, new in zip(tensors_of(recorded), tensors_of(result), strict=True):
                if old.data_ptr() != new.data_ptr():  # else a view, or changed in place
                    old.copy_(new)


def _refuse(func: Any, args: tuple[Any, ...]) -> None:
    """Fails at an operation that a CUDA graph cannot hold."""
    waits: set[Any] = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(
        func.tags
    )
    if func is torch.ops.aten.index.Tensor:  # of masks alone is the result's shape not known
        waits = {index.dtype for index in tensors_of(args[1:])} & {torch.bool}
    assert not waits, f"{func} waits for the device"
    assert torch.Tag.nondeterministic_seeded not in func.tags, f"{func} draws random numbers"
    assert func is not torch.ops.aten.lift_fresh.default, "a tensor is made from the host's numbers"


def record_on_tape(call: Callable[[], R]) -> tuple[Callable[[], None], R]:
    """As :func:`~wm_distributed.nets.captured.record_cuda_graph`, but runs the call once already.

    So the first replay, which is to be the first run, does nothing.
    """
    with Tape() as tape:
        result = call()
    replays = 0

    def replay() -> None:
        nonlocal replays
        if replays:
            tape.replay()
        replays += 1

    return replay, result
