import numpy as np
import pytest
from gymnasium import spaces

from wm_distributed.api import CandidatePolicy, EnvSpaces
from wm_distributed.errors import ConfigError
from wm_distributed.families.linear.config import LinearConfig
from wm_distributed.families.linear.policy import LinearPolicy
from wm_distributed.types import Array, EnvStep

VECTOR = spaces.Box(-1.0, 1.0, (2,), np.float32)
IMAGE = spaces.Box(0, 255, (2, 1, 3), np.uint8)
DISCRETE = EnvSpaces({"vector": VECTOR}, spaces.Discrete(3))
CONTINUOUS = EnvSpaces({"image": IMAGE, "vector": VECTOR}, spaces.Box(-1.0, 1.0, (2,), np.float32))


def step(**obs: Array) -> EnvStep:
    count = len(next(iter(obs.values())))
    no = np.zeros(count, np.bool_)
    return EnvStep(obs, np.zeros(count, np.float32), ~no, no, no)


def test_it_is_a_candidate_policy_of_the_size_that_its_layers_have() -> None:
    policy = LinearPolicy(LinearConfig(), DISCRETE)
    assert isinstance(policy, CandidatePolicy)
    assert policy.num_parameters == 3 * (2 + 1)
    hidden = LinearPolicy(LinearConfig(hidden=5), CONTINUOUS)
    assert hidden.num_parameters == 5 * (6 + 2 + 1) + 2 * (5 + 1)


def test_a_discrete_action_is_the_largest_output() -> None:
    policy = LinearPolicy(LinearConfig(), DISCRETE)
    biases, weights = [0.0, 0.5, 0.0], [1.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    for env in range(3):
        policy.assign(env, np.array(biases + weights), seed=0)
    vector = np.array([[1, 0], [0, 0], [0, 1]], np.float32)  # outputs: 1 .5 0; 0 .5 0; 0 .5 1
    action, _, extras = policy.act(None, step(vector=vector), "eval")
    assert action.tolist() == [0, 1, 2]
    assert action.dtype == np.int32
    assert extras == {}


def test_a_continuous_action_by_hand_with_a_hidden_layer_and_pixels() -> None:
    policy = LinearPolicy(LinearConfig(hidden=1), CONTINUOUS)
    params = np.zeros(policy.num_parameters)
    params[0] = 0.25  # bias of the unit
    params[1] = 2.0  # of the first pixel
    params[8] = -1.0  # of the last number of the vector
    params[9:11] = [0.5, 0.0]  # biases of the outputs
    params[11:13] = [1.0, -3.0]  # of the unit
    policy.assign(0, params, seed=0)
    image = np.zeros((1, 2, 1, 3), np.uint8)
    image[0, 0, 0, 0] = 51  # 0.2
    obs = {"vector": np.array([[9.0, 0.5]], np.float32), "image": image}
    action, _, _ = policy.act(None, step(**obs), "eval")
    unit = np.tanh(0.25 + 2.0 * 0.2 - 0.5)
    assert action.dtype == np.float32
    np.testing.assert_allclose(action, [[np.tanh(0.5 + unit), np.tanh(-3 * unit)]], rtol=1e-6)


@pytest.mark.parametrize("hidden", [0, 7])
def test_a_row_is_the_same_to_the_last_bit_whatever_is_beside_it(hidden: int) -> None:
    rng = np.random.default_rng(0)
    params = rng.normal(size=LinearPolicy(LinearConfig(hidden=hidden), CONTINUOUS).num_parameters)
    vector, image = rng.normal(size=2).astype(np.float32), rng.integers(0, 256, (2, 1, 3))
    alone: Array | None = None
    for count, row in ((1, 0), (3, 2), (16, 5)):
        policy = LinearPolicy(LinearConfig(hidden=hidden), CONTINUOUS)
        for env in range(count):
            policy.assign(env, rng.normal(size=len(params)), seed=env)
        policy.assign(row, params, seed=1)
        vectors = rng.normal(size=(count, 2)).astype(np.float32)
        images = rng.integers(0, 256, (count, 2, 1, 3)).astype(np.uint8)
        vectors[row], images[row] = vector, image
        action = policy.act(None, step(vector=vectors, image=images), "eval")[0][row]
        alone = action if alone is None else alone
        assert np.array_equal(action, alone)


def test_parameters_of_another_size_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"has 9 parameters, got \(8,\)"):
        LinearPolicy(LinearConfig(), DISCRETE).assign(0, np.zeros(8), seed=0)
