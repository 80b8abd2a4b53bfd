import pytest
import torch

from wm_distributed.families.iris.steps import masked_mean, segments, to_pixels, transitions
from wm_distributed.types import TensorBatch

# The example of types.py: an episode of four steps, then the next one begins.
COLUMNS = {
    "action": torch.tensor([[1, 2, 1, 0, 2]], dtype=torch.int32),
    "reward": torch.tensor([[0.0, 0.5, 0.0, -3.0, 0.0]]),
    "is_first": torch.tensor([[True, False, False, False, True]]),
    "is_last": torch.tensor([[False, False, False, True, False]]),
    "is_terminal": torch.tensor([[False, False, False, True, False]]),
}


def test_an_action_belongs_to_the_reward_and_the_end_that_arrive_one_step_later() -> None:
    steps = transitions(TensorBatch(COLUMNS, 1))
    assert steps.action.tolist() == [[1, 2, 1, 0]]
    assert steps.reward_class.tolist() == [[2, 1, 0, 1]]  # + 0 − and the next episode's first
    assert steps.end.tolist() == [[0.0, 0.0, 1.0, 0.0]]


def test_nothing_is_predicted_across_an_end() -> None:
    steps = transitions(TensorBatch(COLUMNS, 1))
    assert steps.valid.tolist() == [[True, True, True, False]]


def test_a_time_limit_is_no_end_of_the_task() -> None:
    cut = COLUMNS | {"is_terminal": torch.zeros(1, 5, dtype=torch.bool)}
    steps = transitions(TensorBatch(cut, 1))
    assert not steps.end.any()
    assert steps.valid.tolist() == [[True, True, True, False]]


def test_segments_number_the_episodes_also_if_the_sequence_begins_within_one() -> None:
    is_first = torch.tensor([[0, 0, 1, 0, 1], [1, 0, 0, 0, 0]], dtype=torch.bool)
    assert segments(is_first).tolist() == [[0, 0, 1, 1, 2], [1, 1, 1, 1, 1]]


def test_stored_bytes_become_pixels_and_not_zeros() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3)
    assert to_pixels(images).flatten().tolist() == [0.0, pytest.approx(0.2), 1.0]
    assert to_pixels(torch.zeros(2, 5, 8, 9, 3, dtype=torch.uint8)).shape == (2, 5, 3, 8, 9)


def test_a_masked_mean_of_nothing_is_zero() -> None:
    values = torch.tensor([1.0, 3.0, 100.0])
    assert masked_mean(values, torch.tensor([True, True, False])) == 2.0
    assert masked_mean(values, torch.zeros(3, dtype=torch.bool)) == 0.0
