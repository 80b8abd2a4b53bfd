from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from wm_distributed.families.dreamer.config import DreamerConfig
from wm_distributed.families.dreamer.rssm import RSSM, BlockGRU, Posterior


def naive_gru(cell: BlockGRU, deter: Tensor, stoch: Tensor, action: Tensor) -> Tensor:
    """One state, block after block, in the words of the paper's code."""
    blocks, size = cell.gates.num_blocks, len(deter) // cell.gates.num_blocks
    action = action / action.abs().clamp(min=1.0)
    inputs = torch.cat([cell.deter_in(deter), cell.stoch_in(stoch), cell.action_in(action)])
    hidden = torch.zeros_like(deter)
    for block in range(blocks):
        own = slice(block * size, (block + 1) * size)
        hidden[own] = torch.cat([deter[own], inputs]) @ cell.weight[:, own] + cell.bias[own]
    hidden = cell.norm_act(hidden)
    new = torch.zeros_like(deter)
    for block in range(blocks):
        own = slice(block * size, (block + 1) * size)
        gates = hidden[own] @ cell.gates.weight[block] + cell.gates.bias[block, 0]
        reset, candidate, update = gates.chunk(3)
        candidate = torch.tanh(torch.sigmoid(reset) * candidate)
        update = torch.sigmoid(update - 1.0)
        new[own] = update * candidate + (1.0 - update) * deter[own]
    return new


def rssm_and_inputs(config: DreamerConfig) -> tuple[RSSM, dict[str, Tensor]]:
    rssm = RSSM(config, embed_size=5, action_size=2)
    for param in rssm.parameters():
        torch.nn.init.normal_(param, std=0.5)
    batch, steps = config.batch_size, config.batch_length
    inputs = {
        "embed": torch.randn(batch, steps, 5),
        "prev_action": torch.randn(batch, steps, 2),
        "is_first": torch.zeros(batch, steps, dtype=torch.bool),
        "deter": torch.rand(batch, rssm.deter_size) - 0.5,
        "stoch": torch.rand(batch, rssm.stoch_size),
        "noise": torch.rand(batch, steps, config.net.stoch),
    }
    return rssm, inputs


def test_the_cell_equals_a_naive_loop_over_its_blocks(config: DreamerConfig) -> None:
    cell = rssm_and_inputs(config)[0].cell
    deter, stoch, action = torch.randn(5, 16), torch.randn(5, 16), 2.0 * torch.randn(5, 2)
    found = cell(deter, stoch, cell.project_action(action), cell.hidden_weights())
    expected = [naive_gru(cell, *row) for row in zip(deter, stoch, action, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_blocks_see_only_their_own_part_of_the_hidden_state(config: DreamerConfig) -> None:
    cell = rssm_and_inputs(config)[0].cell
    weights = cell.hidden_weights()
    assert weights.own.shape == (4, 4, 4)
    # Without the shared inputs, a change in one block of the state stays in that block.
    torch.nn.init.zeros_(cell.deter_in[0].weight)
    cell.norm_act = torch.nn.Identity()  # the norm would spread it
    deter, stoch, action = torch.randn(1, 16), torch.randn(1, 16), torch.randn(1, 2)
    changed = deter.clone()
    changed[:, 4:8] += 1.0
    before = cell(deter, stoch, cell.project_action(action), weights)
    after = cell(changed, stoch, cell.project_action(action), weights)
    moved = (before != after).view(4, 4).any(dim=1)
    assert moved.tolist() == [False, True, False, False]


def test_a_sequence_equals_its_steps_one_by_one(config: DreamerConfig) -> None:
    rssm, inputs = rssm_and_inputs(config)
    inputs["is_first"][1, 3] = True
    whole = rssm.observe(**inputs)
    deter, stoch = inputs["deter"], inputs["stoch"]
    for t in range(config.batch_length):
        over_time = {
            name: inputs[name][:, t : t + 1]
            for name in ("embed", "prev_action", "is_first", "noise")
        }
        step = rssm.observe(**over_time, deter=deter, stoch=stoch)
        deter, stoch = step.deter[:, 0], step.stoch[:, 0]
        torch.testing.assert_close(deter, whole.deter[:, t], rtol=1e-4, atol=1e-5)
        assert torch.equal(stoch, whole.stoch[:, t])


def test_is_first_forgets_state_and_action(config: DreamerConfig) -> None:
    rssm, inputs = rssm_and_inputs(config)
    inputs["is_first"][:, 2] = True
    expected = rssm.observe(**inputs)
    changed = {name: value.clone() for name, value in inputs.items()}
    changed["deter"] += 1.0
    changed["embed"][:, :2] += 1.0
    changed["prev_action"][:, :3] += 0.5  # the action that led to the first step as well
    found = rssm.observe(**changed)
    assert torch.equal(found.deter[:, 2:], expected.deter[:, 2:])
    assert not torch.equal(found.deter[:, :2], expected.deter[:, :2])


def test_the_future_does_not_reach_the_past(config: DreamerConfig) -> None:
    rssm, inputs = rssm_and_inputs(config)
    expected = rssm.observe(**inputs)
    for name in ("embed", "prev_action"):
        changed = {key: value.clone() for key, value in inputs.items()}
        changed[name][:, 4:] += 1.0
        found = rssm.observe(**changed)
        assert torch.equal(found.dist[:, :4], expected.dist[:, :4]), name
        assert not torch.equal(found.dist[:, 4:], expected.dist[:, 4:]), name


def test_the_observation_reaches_the_posterior_of_its_step_but_not_its_deter(
    config: DreamerConfig,
) -> None:
    rssm, inputs = rssm_and_inputs(config)
    expected = rssm.observe(**inputs)
    changed = inputs | {"embed": inputs["embed"].clone()}
    changed["embed"][:, 4] += 1.0
    found = rssm.observe(**changed)
    assert torch.equal(found.deter[:, 4], expected.deter[:, 4])
    assert not torch.equal(found.dist[:, 4], expected.dist[:, 4])


def test_imagining_follows_the_prior(config: DreamerConfig) -> None:
    rssm, inputs = rssm_and_inputs(config)
    action, noise = inputs["prev_action"][:, 0], inputs["noise"][:, 0]
    deter, stoch = rssm.imagine(inputs["deter"], inputs["stoch"], action, noise)
    observed = rssm.observe(
        **{name: inputs[name][:, :1] for name in ("embed", "prev_action", "is_first", "noise")},
        deter=inputs["deter"],
        stoch=inputs["stoch"],
    )
    torch.testing.assert_close(deter, observed.deter[:, 0], rtol=1e-4, atol=1e-5)
    assert torch.equal(stoch, rssm.latent.sample(rssm.prior_dist(deter), noise))


def test_actions_beyond_one_count_as_one(config: DreamerConfig) -> None:
    cell = rssm_and_inputs(config)[0].cell
    far, near = torch.tensor([[7.0, -0.5]]), torch.tensor([[1.0, -0.5]])
    assert torch.equal(cell.project_action(far), cell.project_action(near))


def test_gradient_flows_back_through_time_into_every_parameter(config: DreamerConfig) -> None:
    rssm, inputs = rssm_and_inputs(config)
    inputs["embed"].requires_grad_()
    posterior = rssm.observe(**inputs)
    prior = rssm.prior_dist(posterior.deter)
    loss = F.mse_loss(posterior.feat[:, -1], torch.randn(3, 32)) + prior.square().sum()
    loss.backward()
    assert inputs["embed"].grad is not None
    assert (inputs["embed"].grad[:, 0].abs().sum(-1) > 0).all()
    assert all(param.grad is not None and param.grad.abs().sum() > 0 for param in rssm.parameters())


def test_gaussian_latents_fit_into_the_same_model(config: DreamerConfig) -> None:
    gaussian = replace(config, latent="gaussian")
    rssm, inputs = rssm_and_inputs(gaussian)
    inputs["noise"] = torch.randn_like(inputs["noise"])
    posterior: Posterior = rssm.observe(**inputs)
    assert posterior.stoch.shape == (3, 6, gaussian.net.stoch)
    assert posterior.dist.shape == (3, 6, 2, gaussian.net.stoch)
