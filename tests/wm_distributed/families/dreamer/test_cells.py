from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from wm_distributed.families.dreamer.cells import GRU, BlockGRU, build_cell
from wm_distributed.families.dreamer.config import DreamerConfig


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


def random_cell(config: DreamerConfig, name: str) -> BlockGRU | GRU:
    cell = build_cell(replace(config.net, cell=name), stoch_size=16, action_size=2)
    for param in cell.parameters():
        torch.nn.init.normal_(param, std=0.5)
    return cell


def test_the_block_gru_equals_a_naive_loop_over_its_blocks(config: DreamerConfig) -> None:
    cell = random_cell(config, "block_gru")
    assert isinstance(cell, BlockGRU)
    deter, stoch, action = torch.randn(5, 16), torch.randn(5, 16), 2.0 * torch.randn(5, 2)
    found = cell(deter, stoch, cell.project_action(action), cell.loop_weights())
    expected = [naive_gru(cell, *row) for row in zip(deter, stoch, action, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_blocks_see_only_their_own_part_of_the_hidden_state(config: DreamerConfig) -> None:
    cell = random_cell(config, "block_gru")
    assert isinstance(cell, BlockGRU)
    weights = cell.loop_weights()
    assert weights[0].shape == (4, 4, 4)
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


@pytest.mark.parametrize("name", ["gru", "norm_gru"])
def test_the_gru_equals_its_equations(config: DreamerConfig, name: str) -> None:
    cell = random_cell(config, name)
    assert isinstance(cell, GRU)
    deter, stoch, action = torch.randn(5, 16), torch.randn(5, 16), torch.rand(5, 2)
    hidden = cell.norm_act(cell.first(torch.cat([stoch, action], dim=-1)))
    gates = cell.gate_norm(cell.gates(torch.cat([hidden, deter], dim=-1)))
    reset, candidate, update = gates.chunk(3, dim=-1)
    candidate = torch.tanh(torch.sigmoid(reset) * candidate)
    update = torch.sigmoid(update - 1.0)
    expected = update * candidate + (1.0 - update) * deter
    found = cell(deter, stoch, cell.project_action(action), cell.loop_weights())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_gates_are_normalised_in_v2_alone(config: DreamerConfig) -> None:
    norms = [random_cell(config, name).gate_norm for name in ("gru", "norm_gru")]  # type: ignore[union-attr]
    assert [isinstance(norm, torch.nn.LayerNorm) for norm in norms] == [False, True]


@pytest.mark.parametrize("name", ["block_gru", "gru"])
def test_actions_beyond_one_count_as_one(config: DreamerConfig, name: str) -> None:
    cell = random_cell(config, name)
    far, near = torch.tensor([[7.0, -0.5]]), torch.tensor([[1.0, -0.5]])
    assert torch.equal(cell.project_action(far), cell.project_action(near))
