import numpy as np
import pytest
import torch

from wm_distributed.api import TrainContext
from wm_distributed.collective import Collective
from wm_distributed.errors import CheckpointError
from wm_distributed.testing import COUNTING_FAMILY, CountingConfig, CountingVectorEnv
from wm_distributed.testing.counting_models import CountingPolicy, CountingTrainable
from wm_distributed.types import TensorBatch, Weights

SPACES = CountingVectorEnv(1).spaces


def make_trainable(seed: int = 0, **config: bool) -> CountingTrainable:
    context = TrainContext("cpu", "float32", False, seed, Collective())
    return CountingTrainable(CountingConfig(**config), SPACES, context)


def test_the_preset_is_a_whole_run_configuration() -> None:
    config = COUNTING_FAMILY.presets["counting"]()
    assert isinstance(config.model, COUNTING_FAMILY.config)
    assert COUNTING_FAMILY.phases(config.model)[0].data == config.model.data


def test_the_policy_takes_over_the_trainables_weights() -> None:
    trainable, policy = make_trainable(), CountingPolicy(SPACES, 0)
    policy.load_weights(Weights(3, trainable.policy_weights()))
    assert policy.version == 3
    assert torch.equal(policy.model.weight, trainable.model.weight)


def test_the_trainable_refuses_sequences_that_are_not_exact() -> None:
    trainable = make_trainable(check_data=True)
    columns = {
        "obs/count": torch.tensor([[[0.0, 0, 0], [0, 0, 1]]]),
        "action": torch.tensor([[2, 0]]),
        "reward": torch.tensor([[0.0, 3]]),
        "is_first": torch.tensor([[True, False]]),
        "is_last": torch.tensor([[False, False]]),
        "is_terminal": torch.tensor([[False, False]]),
    }
    trainable.train_step("counting", 0, TensorBatch(columns))
    columns["reward"] = torch.tensor([[0.0, 2]])
    with pytest.raises(AssertionError, match="reward"):
        trainable.train_step("counting", 0, TensorBatch(columns))


def test_loading_a_state_of_another_size_is_a_checkpoint_error() -> None:
    state = make_trainable().state_dict()
    state["model"]["weight"] = torch.zeros(1, 7)
    with pytest.raises(CheckpointError, match="size mismatch"):
        make_trainable().load_state_dict(state)


def test_the_policy_counts_the_steps_since_is_first() -> None:
    env, policy = CountingVectorEnv(2), CountingPolicy(SPACES, 0)
    step, state = env.reset(), policy.initial_state(2)
    for _ in range(12):
        action, state, extras = policy.act(state, step, "train")
        np.testing.assert_array_equal(extras["latent/count"][:, 0], step.obs["count"][:, 2])
        step = env.step(action)
