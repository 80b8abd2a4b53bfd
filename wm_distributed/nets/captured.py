"""A function of tensors, recorded once and replayed as one CUDA graph.

A train step of a recurrent model is thousands of small kernels, and launching them one by one takes
longer than running them. A graph launches all of them at once. What is recorded are kernels and
addresses, nothing else: Python runs no more, and every replay reads and writes the same memory.
So the function

- must not wait for the device, nor draw random numbers, nor choose by a tensor's value;
- must keep what outlives a call (parameters, gradients, statistics) in tensors that it changes in
  place;
- may read only constants beside these and its arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, Generic, ParamSpec, TypeVar, cast

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

Record = Callable[[Callable[[], R]], tuple[Callable[[], None], R]]
"""Records a call: gives what replays it, and what the call returned, to be overwritten by each
replay. Recording leaves all memory as it was; the first replay is the first run."""

_NUM_EAGER = 3
"""Calls before the recording, in which libraries choose algorithms and reserve memory."""


def record_cuda_graph(call: Callable[[], R]) -> tuple[Callable[[], None], R]:
    """Records a call on the present GPU.

    Meanwhile other threads go on loading batches, which is why only this thread's calls are looked
    at for what cannot be recorded.

    Source: https://pytorch.org/docs/stable/notes/cuda.html, section "CUDA Graphs".
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        result = call()
    return graph.replay, result


class Captured(Generic[P, R]):
    """``function``, replayed from its fourth call on.

    Arguments and result may hold tensors in mappings, sequences and dataclasses. A call whose
    tensors have other shapes than the recorded ones runs as it is. Results are the caller's to
    keep.
    """

    def __init__(
        self, function: Callable[P, R], record: Callable[..., Any] = record_cuda_graph
    ) -> None:
        """Args: what to record, see above, and how."""
        self._function = function
        self._record: Record[R] = record
        self._num_calls = 0
        self._inputs: list[Tensor] = []
        self._replay: Callable[[], None] | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if self._num_calls < _NUM_EAGER:
            self._num_calls += 1
            return _on_side_stream(lambda: self._function(*args, **kwargs))
        given = tensors_of((args, kwargs))
        if self._replay is None:
            self._capture(args, kwargs)
        if [tensor.shape for tensor in given] != [tensor.shape for tensor in self._inputs]:
            return self._function(*args, **kwargs)
        torch._foreach_copy_(self._inputs, given)
        assert self._replay is not None
        self._replay()
        return map_tensors(Tensor.clone, self._result)

    def _capture(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Records the function on copies of the arguments, which later ones are copied into."""
        args, kwargs = map_tensors(Tensor.clone, (args, kwargs))
        self._inputs = tensors_of((args, kwargs))
        self._replay, self._result = self._record(lambda: self._function(*args, **kwargs))


def map_tensors(function: Callable[[Tensor], Tensor], tree: T) -> T:
    """``tree`` with every tensor replaced, in mappings, sequences and dataclasses of any depth."""
    new: Any = tree
    if isinstance(tree, Tensor):
        new = function(tree)
    elif isinstance(tree, Mapping):
        new = {key: map_tensors(function, value) for key, value in tree.items()}
    elif isinstance(tree, tuple | list):
        values = [map_tensors(function, value) for value in tree]
        new = type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)
    elif is_dataclass(tree) and not isinstance(tree, type):
        parts = {field.name: getattr(tree, field.name) for field in fields(tree)}
        new = replace(tree, **map_tensors(function, parts))
    return cast("T", new)


def tensors_of(tree: object) -> list[Tensor]:
    """The tensors in a tree, in their order."""
    found: list[Tensor] = []
    map_tensors(lambda tensor: found.append(tensor) or tensor, tree)  # type: ignore[func-returns-value]
    return found


def _on_side_stream(call: Callable[[], R]) -> R:
    """Runs a call where recording will, so that what it reserves is the recording's, too."""
    if not torch.cuda.is_available():
        return call()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        result = call()
    torch.cuda.current_stream().wait_stream(stream)
    return result
