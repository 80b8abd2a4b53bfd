import numpy as np
import pytest
import torch
from gymnasium import spaces

from wm_distributed.errors import ConfigError
from wm_distributed.families.world_models.actions import (
    ChoiceActions,
    ContinuousActions,
    DialActions,
    build_actions,
)
from wm_distributed.families.world_models.config import ControllerConfig

BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)


def test_car_racing_actions_are_those_of_the_paper_after_rescaling() -> None:
    outputs = torch.tensor([[0.5, -0.3, 0.8], [-2.0, 1.0, -0.8]])
    action = ContinuousActions(3, (2,)).to_env(outputs)
    rescaled = torch.stack([action[:, 0], (action[:, 1] + 1) / 2, (action[:, 2] + 1) / 2], dim=1)
    # steering tanh(o), gas (tanh(o) + 1) / 2, brake tanh(o) cut off below 0
    expected = [[0.46211716, 0.35434369, 0.66403677], [-0.96402758, 0.88079708, 0.0]]
    torch.testing.assert_close(rescaled, torch.tensor(expected))


def test_actions_are_the_memorys_input_as_executed() -> None:
    action = torch.tensor([[0.1, -1.0, 0.3]])
    assert torch.equal(ContinuousActions(3, (2,)).to_input(action), action)


def test_the_largest_output_is_chosen_and_seen_one_hot() -> None:
    actions = ChoiceActions(4)
    chosen = actions.to_env(torch.tensor([[0.1, 0.4, -1.0, 0.3], [2.0, 0.0, 0.0, 0.0]]))
    assert chosen.dtype == torch.int32
    assert chosen.tolist() == [1, 0]
    assert actions.to_input(chosen).tolist() == [[0, 1, 0, 0], [1, 0, 0, 0]]


def test_a_dial_of_three_changes_at_a_third_as_in_doom() -> None:
    actions = DialActions((1, 0, 2))  # left, nothing, right
    values = torch.tensor([-0.999999, -0.34, -0.33, 0.0, 0.33, 0.34, 0.999999])
    chosen = actions.to_env(values.atanh().unsqueeze(-1))
    assert chosen.tolist() == [1, 1, 0, 0, 0, 2, 2]
    assert actions.to_input(chosen).squeeze(-1).tolist() == [-1, -1, 0, 0, 0, 1, 1]


def test_a_saturated_dial_stays_on_its_last_action() -> None:
    assert DialActions((0, 1, 2)).to_env(torch.tensor([[1e9], [-1e9]])).tolist() == [2, 0]


@pytest.mark.parametrize(
    ("space", "config", "message"),
    [
        (spaces.Discrete(3), ControllerConfig(positive_only=(1,)), "actions are discrete"),
        (spaces.Discrete(3), ControllerConfig(dial=(1, 0)), "must name all 3 actions"),
        (BOX, ControllerConfig(dial=(1, 0)), "actions are continuous"),
        (BOX, ControllerConfig(positive_only=(3,)), r"must be within 0\.\.2"),
    ],
)
def test_a_configuration_for_other_actions_is_refused(
    space: spaces.Box | spaces.Discrete, config: ControllerConfig, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        build_actions(space, config)


def test_discrete_actions_without_a_dial_are_choices() -> None:
    assert isinstance(build_actions(spaces.Discrete(5), ControllerConfig()), ChoiceActions)
