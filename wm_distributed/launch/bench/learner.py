"""DreamerV3's train steps at the published batch, beside what the machine can multiply.

The bound is what the floating-point operations of one step would take as one large matrix product,
in float32, on the same threads. A step never reaches it: it is made of small products, and of
passes over memory that count no operation.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from wm_distributed.allocator import keep_freed_memory
from wm_distributed.api import EnvSpaces, TrainContext
from wm_distributed.collective import Collective
from wm_distributed.families.dreamer.config import DreamerConfig
from wm_distributed.families.dreamer.presets import NETS
from wm_distributed.families.dreamer.trainable import DreamerTrainable
from wm_distributed.launch.bench import BenchResult
from wm_distributed.threads import configure_threads
from wm_distributed.types import TensorBatch

_ACTIONS = spaces.Box(-1.0, 1.0, (6,), np.float32)
SPACES = {
    "vectors": EnvSpaces({"vector": spaces.Box(-np.inf, np.inf, (24,), np.float32)}, _ACTIONS),
    "pixels": EnvSpaces({"image": spaces.Box(0, 255, (64, 64, 3), np.uint8)}, _ACTIONS),
}
_STEPS, _MATRIX = 3, 2048

Precision = Literal["float32", "bfloat16"]
Way = Literal["eager", "compiled", "as a CUDA graph"]


def run() -> list[BenchResult]:
    """Train steps a second, without a replay to wait for, by precision and by how they are run.

    A CPU without instructions for bfloat16 emulates it, which is not measured.
    """
    threads = os.cpu_count() or 1
    configure_threads(threads)
    keep_freed_memory()  # as in a learner's process
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rate = _operations_per_second(device)
    note = f"B16×T64, {torch.cuda.get_device_name() if device == 'cuda' else f'{threads} threads'}"
    precisions: list[Precision] = ["float32"]
    if device == "cuda" or torch.ops.mkldnn._is_mkldnn_bf16_supported():
        precisions.append("bfloat16")
    results = []
    for size in ("1m", "12m"):
        for obs in SPACES:
            bench = _Learner(size, obs, device)
            bound = rate / bench.count_operations()
            results += [bench.measure(one, "eager", bound, note) for one in precisions]
            results.append(bench.measure(precisions[-1], "compiled", bound, note))
            if device == "cuda":
                results.append(bench.measure(precisions[-1], "as a CUDA graph", bound, note))
    return results


class _Learner:
    """The train step of one size from one kind of observation."""

    def __init__(self, size: str, obs: str, device: str) -> None:
        self._name = f"{size} from {obs}"
        self._config = DreamerConfig(net=NETS[size])
        self._spaces = SPACES[obs]
        self._device = device
        self._batch = synthetic_batch(self._config, self._spaces, device)

    def count_operations(self) -> int:
        """Floating-point operations of one step."""
        step = self._step("float32", "eager")
        with _OperationCounter() as counter:
            step()
        return int(counter.total)

    def measure(self, precision: Precision, way: Way, bound: float, note: str) -> BenchResult:
        """Steps a second, after those that compile or record."""
        torch.compiler.reset()  # else the variants compiled for another model count towards a limit
        step = self._step(precision, way)
        num_before = 4 if way == "as a CUDA graph" else 2
        warm_up = sum(_timed(step, self._device) for _ in range(num_before))
        seconds = statistics.median(_timed(step, self._device) for _ in range(_STEPS))
        if way == "compiled":
            note += f", after {warm_up:.0f} s of compilation"
        return BenchResult(
            name=f"{self._name}, {precision}, {way}",
            value=1.0 / seconds,
            unit="train steps/s",
            reference=bound,
            reference_name="its operations as one product",
            note=f"{note}; {1000 * seconds:.0f} ms a step",
        )

    def _step(self, precision: Precision, way: Way) -> Callable[[], object]:
        context = TrainContext(
            device=self._device,
            precision=precision,
            compile=way == "compiled",
            seed=0,
            collective=Collective(),
            cuda_graphs=way == "as a CUDA graph",
        )
        trainable = DreamerTrainable(self._config, self._spaces, context)
        return partial(trainable.train_step, "agent", None, self._batch)


def synthetic_batch(config: DreamerConfig, env_spaces: EnvSpaces, device: str) -> TensorBatch:
    """Random data in the columns of a sampled batch, with one step of context."""
    shape = (config.batch_size, config.batch_length + 1)
    columns: dict[str, torch.Tensor] = {}
    for key, space in env_spaces.obs.items():
        full = (*shape, *space.shape)
        image = space.dtype == np.uint8
        columns[f"obs/{key}"] = (
            torch.randint(0, 256, full, dtype=torch.uint8) if image else torch.randn(full)
        )
    actions = env_spaces.action.shape
    assert actions is not None
    columns["action"] = torch.rand(*shape, *actions) * 2 - 1
    columns["reward"] = torch.rand(shape)
    for name in ("is_first", "is_last", "is_terminal"):
        columns[name] = torch.zeros(shape, dtype=torch.bool)
    net = config.net
    columns["latent/deter"] = torch.zeros(*shape, net.deter, dtype=torch.float16)
    columns["latent/stoch"] = torch.zeros(*shape, net.stoch, dtype=torch.uint8)
    return TensorBatch({name: column.to(device) for name, column in columns.items()}, context=1)


class _OperationCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the floating-point operations of matrix products and convolutions.

    Torch's own ``FlopCounterMode`` follows modules as well, and cannot where they run without
    gradients on parameters that have some.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=out)
        return out


def _operations_per_second(device: str) -> float:
    """Floating-point operations a second of a large float32 matrix product."""
    matrix = torch.randn(_MATRIX, _MATRIX, device=device)
    out = torch.empty_like(matrix)
    seconds = min(_timed(lambda: torch.mm(matrix, matrix, out=out), device) for _ in range(_STEPS))
    return 2.0 * _MATRIX**3 / seconds


def _timed(function: Callable[[], object], device: str) -> float:
    """Seconds of one call, until the device has done what it was given."""
    begin = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin
