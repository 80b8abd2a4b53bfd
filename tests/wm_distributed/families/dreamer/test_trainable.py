from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wm_distributed.api import EnvSpaces, TrainContext
from wm_distributed.collective import Collective
from wm_distributed.errors import CheckpointError, ConfigError
from wm_distributed.families.dreamer.config import DreamerConfig
from wm_distributed.families.dreamer.presets import debug
from wm_distributed.families.dreamer.trainable import DreamerTrainable
from wm_distributed.types import TensorBatch

MakeBatch = Callable[[DreamerConfig], TensorBatch]


def context(collective: Collective | None = None, precision: str = "float32") -> TrainContext:
    return TrainContext(
        device="cpu",
        precision=precision,  # type: ignore[arg-type]
        compile=False,
        seed=0,
        collective=collective or Collective(),
    )


class Threads:
    """Ranks of one group as threads of this process."""

    def __init__(self, num_ranks: int) -> None:
        self.num_ranks = num_ranks
        self._barrier = threading.Barrier(num_ranks, timeout=60.0)
        self._slots: list[Tensor] = [torch.empty(0)] * num_ranks

    def exchange(self, rank: int, tensor: Tensor) -> list[Tensor]:
        self._slots[rank] = tensor.clone()
        self._barrier.wait()
        parts = list(self._slots)
        self._barrier.wait()
        return parts


class ThreadRank(Collective):
    def __init__(self, threads: Threads, rank: int) -> None:
        super().__init__()
        self.threads, self.rank, self.world_size = threads, rank, threads.num_ranks

    def mean_(self, tensor: Tensor) -> Tensor:
        return tensor.copy_(torch.stack(self.threads.exchange(self.rank, tensor)).mean(0))

    def gather(self, tensor: Tensor) -> Tensor:
        return torch.cat(self.threads.exchange(self.rank, tensor))


def test_two_ranks_stay_equal_and_learn_from_both_halves(
    env_spaces: EnvSpaces, make_batch: MakeBatch
) -> None:
    config = replace(debug().model, batch_size=2, batch_length=5)
    batches = [make_batch(config), make_batch(config)]
    threads = Threads(2)
    ranks = [
        DreamerTrainable(config, env_spaces, context(ThreadRank(threads, rank))) for rank in (0, 1)
    ]

    def train(rank: int) -> None:
        for _ in range(4):
            ranks[rank].train_step("agent", None, batches[rank])

    workers = [threading.Thread(target=train, args=(rank,)) for rank in (0, 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    first, second = (rank.state_dict() for rank in ranks)
    for name, tensor in first["model"].items():
        assert torch.equal(tensor, second["model"][name]), name
    assert torch.equal(first["return_scale"]["range"], second["return_scale"]["range"])
    assert not torch.equal(first["generator"], second["generator"]), "ranks need their own noise"

    alone = DreamerTrainable(config, env_spaces, context())
    for _ in range(4):
        alone.train_step("agent", None, batches[0])
    assert any(
        not torch.equal(tensor, first["model"][name])
        for name, tensor in alone.state_dict()["model"].items()
    )


def test_micro_batches_train_as_the_whole_batch(
    env_spaces: EnvSpaces, make_batch: MakeBatch
) -> None:
    replayed = replace(debug().model.selector, uniform=0.0, prioritized=1.0)
    config = replace(debug().model, batch_size=4, batch_length=5, selector=replayed)
    batch = make_batch(config)
    whole, parted, half = (
        DreamerTrainable(config, env_spaces, replace(context(), micro_batches=parts))
        for parts in (1, 4, 1)
    )
    halved = batch.split(2)[0]
    for _ in range(4):
        _, expected = whole.train_step("agent", None, batch)
        _, found = parted.train_step("agent", None, batch)
        _, other = half.train_step("agent", None, halved)
        for name, value in expected.metrics.items():
            assert float(found.metrics[name]) == pytest.approx(float(value), rel=1e-3, abs=1e-4)
        assert float(other.metrics["loss"]) != pytest.approx(float(expected.metrics["loss"]), 1e-3)
        torch.testing.assert_close(found.priorities, expected.priorities)
        for name, update in expected.update.items():
            assert found.update[name].shape == update.shape
    ranges = [t.state_dict()["return_scale"]["range"] for t in (whole, parted)]
    torch.testing.assert_close(*ranges, rtol=1e-3, atol=1e-5)


def test_low_precision_computes_nearly_the_same_with_float32_parameters(
    env_spaces: EnvSpaces, config: DreamerConfig, batch: TensorBatch
) -> None:
    figures = []
    for precision in ("float32", "bfloat16"):
        trainable = DreamerTrainable(config, env_spaces, context(precision=precision))
        _, output = trainable.train_step("agent", None, batch)
        assert all(param.dtype == torch.float32 for param in trainable.model.parameters())
        figures.append(float(output.metrics["loss"]))
    assert figures[1] == pytest.approx(figures[0], rel=0.02)
    assert figures[1] != figures[0]


@pytest.mark.slow  # traces some twenty graphs
# Torch's compiler sets off warnings of torch itself.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_compiled_networks_compute_the_same(
    env_spaces: EnvSpaces,
    config: DreamerConfig,
    batch: TensorBatch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled = []

    def trace(module: nn.Module, **options: Any) -> None:
        """Traces as for the real compiler, which would take minutes, and runs the trace."""
        compiled.append(module)
        module._compiled_call_impl = torch.compile(
            module._call_impl, backend="aot_eager", fullgraph=True, **options
        )

    monkeypatch.setattr(nn.Module, "compile", trace)
    plain = DreamerTrainable(config, env_spaces, context())
    traced = DreamerTrainable(config, env_spaces, replace(context(), compile=True))
    assert len(compiled) == 10
    _, expected = plain.train_step("agent", None, batch)
    _, found = traced.train_step("agent", None, batch)
    for name, value in expected.metrics.items():
        assert float(found.metrics[name]) == pytest.approx(float(value), rel=1e-3, abs=1e-4), name


def test_a_checkpoint_of_another_size_is_refused_by_name(
    env_spaces: EnvSpaces, config: DreamerConfig
) -> None:
    state = DreamerTrainable(config, env_spaces, context()).state_dict()
    other = replace(config, net=replace(config.net, units=12))
    saved_and_own = r"acting\.actor\.mlp\.0\.weight has \(8, 32\) there and \(12, 32\) here"
    with pytest.raises(CheckpointError, match=saved_and_own):
        DreamerTrainable(other, env_spaces, context()).load_state_dict(state)


def test_equal_seeds_build_equal_models_without_touching_torch_s_generator(
    env_spaces: EnvSpaces, config: DreamerConfig
) -> None:
    before = torch.random.get_rng_state()
    first, second = (DreamerTrainable(config, env_spaces, context()) for _ in "ab")
    assert torch.equal(torch.random.get_rng_state(), before)
    for one, two in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_sizes_that_do_not_divide_are_refused(config: DreamerConfig) -> None:
    with pytest.raises(ConfigError, match=r"deter must be divisible .* got 18 and 4"):
        replace(config, net=replace(config.net, deter=18))
    with pytest.raises(ConfigError, match=r"classes must be in 2\.\.256, got 300"):
        replace(config, net=replace(config.net, classes=300))
    with pytest.raises(ConfigError, match=r"bins must be odd .* got 40"):
        replace(config, net=replace(config.net, bins=40))
