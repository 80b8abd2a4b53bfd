from __future__ import annotations

import pytest
import torch

from wm_distributed.families.dreamer.config import DreamerConfig
from wm_distributed.families.dreamer.inputs import trained_steps
from wm_distributed.families.dreamer.model import DreamerModel
from wm_distributed.families.dreamer.simulator import DreamerSimulator
from wm_distributed.families.dreamer.world_model import observe
from wm_distributed.types import TensorBatch


def test_it_starts_from_the_posterior_of_the_last_step(
    model: DreamerModel, config: DreamerConfig, batch: TensorBatch
) -> None:
    state = DreamerSimulator(model, config, seed=4).start(batch)
    steps = trained_steps(model.acting, config, batch)
    noise = torch.rand(3, 6, config.net.stoch, generator=torch.Generator().manual_seed(4))
    posterior = observe(model.acting, steps, noise)
    torch.testing.assert_close(state.deter, posterior.deter[:, -1])
    assert torch.equal(state.stoch, posterior.stoch[:, -1])


def test_the_last_action_of_the_context_is_not_taken_yet(
    model: DreamerModel, config: DreamerConfig, batch: TensorBatch
) -> None:
    before = DreamerSimulator(model, config).start(batch)
    batch.columns["action"][:, -1] = 1 - batch.columns["action"][:, -1]
    after = DreamerSimulator(model, config).start(batch)
    assert torch.equal(before.deter, after.deter)


def test_different_actions_lead_to_different_dreams(
    model: DreamerModel, config: DreamerConfig, batch: TensorBatch
) -> None:
    futures = []
    for action in (torch.zeros(3, dtype=torch.long), torch.ones(3, dtype=torch.long)):
        simulator = DreamerSimulator(model, config)
        futures.append(simulator.step(simulator.start(batch), action))
    assert not torch.equal(futures[0][0].deter, futures[1][0].deter)
    assert not torch.equal(futures[0][1].obs["state"], futures[1][1].obs["state"])


def test_continuation_is_a_probability_without_the_discount(
    model: DreamerModel, config: DreamerConfig, batch: TensorBatch
) -> None:
    torch.nn.init.zeros_(model.cont.out.weight)
    simulator = DreamerSimulator(model, config)
    state = simulator.start(batch)
    for logit, expected in ((50.0, 1.0), (0.0, 0.5 * 333.0 / 332.0)):
        torch.nn.init.constant_(model.cont.out.bias, logit)
        _, step = simulator.step(state, torch.zeros(3, dtype=torch.long))
        assert step.cont.tolist() == pytest.approx([expected] * 3)
