import pytest
import torch
from torch import nn

from wm_distributed.families.world_models.config import MemoryConfig
from wm_distributed.families.world_models.memory import Memory, MemoryState


def torch_cell(memory: Memory, num_in: int) -> nn.LSTMCell:
    """torch's LSTM cell with the memory's parameters; its gates lie in another order."""
    cell = nn.LSTMCell(num_in, memory.units)
    gate_in, forget, gate_out, candidate = memory.weight.chunk(4)
    weight = torch.cat([gate_in, forget, candidate, gate_out])
    bias_in, bias_forget, bias_out, bias_candidate = memory.bias.chunk(4)
    with torch.no_grad():
        cell.weight_ih.copy_(weight[:, :num_in])
        cell.weight_hh.copy_(weight[:, num_in:])
        cell.bias_ih.copy_(torch.cat([bias_in, bias_forget, bias_candidate, bias_out]))
        cell.bias_hh.zero_()
    return cell


def paper_parameters(memory: Memory, *, with_done: bool) -> int:
    part = memory.weight.numel() + memory.bias.numel()
    part += sum(param.numel() for param in memory.mixture.parameters())
    return part + with_done * sum(param.numel() for param in memory.done.parameters())


def test_car_racings_memory_has_as_many_parameters_as_the_papers() -> None:
    memory = Memory(MemoryConfig(), latent_size=32, action_size=3)
    assert paper_parameters(memory, with_done=False) == 422_368


def test_dooms_memory_has_as_many_parameters_as_the_papers() -> None:
    memory = Memory(MemoryConfig(units=512, restart_input=True), latent_size=64, action_size=1)
    assert paper_parameters(memory, with_done=True) == 1_678_785


def test_a_step_equals_torchs_cell() -> None:
    memory = Memory(MemoryConfig(units=8), latent_size=4, action_size=2)
    inputs, hidden, cell = torch.randn(5, 6), torch.randn(5, 8), torch.randn(5, 8)
    state = memory.step(inputs, MemoryState(hidden, cell))
    expected = torch_cell(memory, 6)(inputs, (hidden, cell))
    torch.testing.assert_close(tuple(state), expected)


def test_a_step_takes_any_leading_axes() -> None:
    memory = Memory(MemoryConfig(units=8), latent_size=4, action_size=2)
    inputs = torch.randn(3, 5, 6)
    state = memory.step(inputs, memory.initial_state(3, 5))
    flat = memory.step(inputs.flatten(0, 1), memory.initial_state(15))
    torch.testing.assert_close(state.hidden.flatten(0, 1), flat.hidden)


def test_unrolling_equals_steps_that_start_afresh_with_each_episode() -> None:
    memory = Memory(MemoryConfig(units=8), latent_size=4, action_size=2)
    inputs = torch.randn(2, 7, 6)
    is_first = torch.zeros(2, 7, dtype=torch.bool)
    is_first[0, 3] = is_first[1, 0] = is_first[1, 5] = True
    unrolled = memory.unroll(inputs, is_first)
    cell = torch_cell(memory, 6)
    for row in range(2):
        state = (torch.zeros(1, 8), torch.zeros(1, 8))
        for t in range(7):
            if is_first[row, t]:
                state = (torch.zeros(1, 8), torch.zeros(1, 8))
            state = cell(inputs[row, t : t + 1], state)
            torch.testing.assert_close(unrolled[row, t], state[0][0])


def test_no_gradient_crosses_the_beginning_of_an_episode() -> None:
    memory = Memory(MemoryConfig(units=8), latent_size=4, action_size=2)
    inputs = torch.randn(1, 6, 6, requires_grad=True)
    is_first = torch.zeros(1, 6, dtype=torch.bool)
    is_first[0, 3] = True
    memory.unroll(inputs, is_first)[:, 4].sum().backward()
    used = inputs.grad.abs().sum((0, 2)) > 0
    assert used.tolist() == [False, False, False, True, True, False]


@pytest.mark.parametrize("restart_input", [False, True])
def test_the_beginning_is_an_input_where_asked_for(restart_input: bool) -> None:
    config = MemoryConfig(units=8, restart_input=restart_input)
    memory = Memory(config, latent_size=2, action_size=1)
    is_first = torch.tensor([True, False])
    inputs = memory.inputs(torch.zeros(2, 2), torch.ones(2, 1), is_first)
    expected = [[0, 0, 1, 1], [0, 0, 1, 0]] if restart_input else [[0, 0, 1], [0, 0, 1]]
    assert inputs.tolist() == expected
