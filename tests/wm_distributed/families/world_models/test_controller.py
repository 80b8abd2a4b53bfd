import itertools

import numpy as np
import pytest
import torch

from wm_distributed.errors import ConfigError
from wm_distributed.families.world_models.config import ControllerConfig
from wm_distributed.families.world_models.controller import Controller
from wm_distributed.families.world_models.memory import MemoryState

CAR = (32, 256, 3)
DOOM = (64, 512, 1)


@pytest.mark.parametrize(
    ("config", "sizes", "expected"),
    [
        (ControllerConfig(), CAR, 867),
        (ControllerConfig(inputs="z"), CAR, 99),
        (ControllerConfig(inputs="z", hidden=40), CAR, 1443),
        (ControllerConfig(inputs="zch", bias=False), DOOM, 1088),
    ],
)
def test_controllers_have_as_many_parameters_as_the_papers(
    config: ControllerConfig, sizes: tuple[int, int, int], expected: int
) -> None:
    assert Controller(config, *sizes).num_parameters == expected


@pytest.mark.parametrize(("inputs", "expected"), [("z", "z"), ("zh", "zh"), ("zch", "zch")])
def test_features_stand_in_the_named_order(inputs, expected: str) -> None:
    parts = {"z": 1.0, "h": 2.0, "c": 3.0}
    state = MemoryState(hidden=torch.full((2, 3), 2.0), cell=torch.full((2, 3), 3.0))
    controller = Controller(ControllerConfig(inputs=inputs), 4, 3, 1)
    features = controller.features(torch.full((2, 4), 1.0), state)
    row = [parts[name] for name in expected for _ in range(4 if name == "z" else 3)]
    assert features.tolist() == [row, row]


@pytest.mark.parametrize("hidden", [0, 5])
@pytest.mark.parametrize("bias", [False, True])
def test_a_population_equals_its_members_one_by_one(hidden: int, bias: bool) -> None:
    controller = Controller(ControllerConfig(hidden=hidden, bias=bias), 2, 4, 3)
    parameters, features = torch.randn(7, controller.num_parameters), torch.randn(7, 5, 6)
    together = controller(parameters, features)
    assert together.shape == (7, 5, 3)
    for vector, group, outputs in zip(parameters, features, together, strict=True):
        for row, output in zip(group.numpy(), outputs, strict=True):
            expected = by_hand(vector.numpy(), row, hidden, bias)
            np.testing.assert_allclose(output.numpy(), expected, rtol=1e-4, atol=1e-5)


def by_hand(vector: np.ndarray, row: np.ndarray, hidden: int, bias: bool) -> np.ndarray:
    sizes = [6, hidden, 3] if hidden else [6, 3]
    for layer, (num_in, num_out) in enumerate(itertools.pairwise(sizes)):
        weight, vector = vector[: num_in * num_out], vector[num_in * num_out :]
        row = (np.tanh(row) if layer else row) @ weight.reshape(num_in, num_out)
        if bias:
            row, vector = row + vector[:num_out], vector[num_out:]
    assert not len(vector)
    return row


def test_parameters_of_another_size_are_refused() -> None:
    controller = Controller(ControllerConfig(), *CAR)
    assert controller.to_tensor(np.zeros((4, 867))).dtype == torch.float32
    with pytest.raises(ConfigError, match=r"has 867 parameters, got an array \(4, 1088\)"):
        controller.to_tensor(np.zeros((4, 1088)))
