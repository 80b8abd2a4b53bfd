import dataclasses

import numpy as np
import pytest
import torch

from wm_distributed.api import EnvSpaces
from wm_distributed.errors import CheckpointError, ConfigError
from wm_distributed.families.world_models.config import WorldModelsConfig
from wm_distributed.families.world_models.model import ActingModel
from wm_distributed.families.world_models.policy import WorldModelsPolicy
from wm_distributed.types import EnvStep, Weights
from wm_distributed.weights import pack_weights


def env_step(images: np.ndarray, is_first: list[bool]) -> EnvStep:
    none = np.zeros(len(images), np.bool_)
    reward = np.zeros(len(images), np.float32)
    return EnvStep({"image": images}, reward, np.array(is_first), none, none)


def frames(num_steps: int, num_envs: int) -> np.ndarray:
    shape = (num_steps, num_envs, 64, 64, 3)
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


def weights_with_controller(
    config: WorldModelsConfig, spaces: EnvSpaces, version: int = 1
) -> Weights:
    model = ActingModel(config, spaces)
    model.controller_parameters.normal_()
    return Weights(version, pack_weights(model.state_dict()))


def drive(policy: WorldModelsPolicy, images: np.ndarray, firsts: list[list[bool]]) -> np.ndarray:
    """Actions ``(T, N, A)`` on given frames."""
    state, actions = policy.initial_state(images.shape[1]), []
    for frame, first in zip(images, firsts, strict=True):
        action, state, _ = policy.act(state, env_step(frame, first), "eval")
        actions.append(action)
    return np.stack(actions)


@pytest.fixture
def policy(small: WorldModelsConfig, car_spaces: EnvSpaces) -> WorldModelsPolicy:
    return WorldModelsPolicy(small, car_spaces, seed=0)


def test_actions_are_in_the_space_and_latents_are_stored(
    policy: WorldModelsPolicy, small: WorldModelsConfig, car_spaces: EnvSpaces
) -> None:
    policy.load_weights(weights_with_controller(small, car_spaces))
    step = env_step(frames(1, 5)[0], [True] * 5)
    action, _, columns = policy.act(policy.initial_state(5), step, "train")
    assert action.dtype == np.float32
    assert action.shape == (5, 3)
    assert np.abs(action).max() <= 1
    assert {name: (c.dtype, c.shape) for name, c in columns.items()} == {
        "latent/mean": (np.dtype(np.float16), (5, 4)),
        "latent/log_var": (np.dtype(np.float16), (5, 4)),
    }
    pixels = torch.from_numpy(step.obs["image"]).permute(0, 3, 1, 2) / 255.0
    mean, _ = policy._model.encoder(pixels)
    np.testing.assert_allclose(columns["latent/mean"], mean, atol=1e-3)


def test_acting_is_v_then_c_then_m(policy: WorldModelsPolicy) -> None:
    images, model = frames(3, 1), policy._model
    parameters = np.random.default_rng(2).normal(size=policy.num_parameters)
    policy.assign(0, parameters, seed=8)
    actions = drive(policy, images, [[True], [False], [False]])
    noise, memory = np.random.default_rng(8), model.memory.initial_state(1)
    weight, bias = torch.from_numpy(parameters).float().split([36, 3])
    for frame, action in zip(images, actions, strict=True):
        mean, log_var = model.encoder(torch.from_numpy(frame).permute(0, 3, 1, 2) / 255.0)
        z = mean + (log_var / 2).exp() * torch.from_numpy(noise.standard_normal((1, 4), np.float32))
        outputs = torch.cat([z, memory.hidden], dim=1) @ weight.reshape(12, 3) + bias
        np.testing.assert_allclose(action, model.actions.to_env(outputs), atol=1e-4)
        memory = model.memory.step(torch.cat([z, torch.from_numpy(action)], dim=1), memory)


def test_discrete_actions_are_integers(doom: WorldModelsConfig, doom_spaces: EnvSpaces) -> None:
    policy = WorldModelsPolicy(doom, doom_spaces, seed=0)
    policy.load_weights(weights_with_controller(doom, doom_spaces))
    actions = drive(policy, frames(3, 4), [[True] * 4, [False] * 4, [False] * 4])
    assert actions.dtype == np.int32
    assert actions.shape == (3, 4)
    assert set(actions.flat) <= {0, 1, 2}


def test_each_environment_acts_as_if_it_were_alone(policy: WorldModelsPolicy) -> None:
    images = frames(4, 3)
    firsts = [[True, True, True], [False] * 3, [False, True, False], [False] * 3]
    controllers = np.random.default_rng(2).normal(size=(3, policy.num_parameters))
    for env in range(3):
        policy.assign(env, controllers[env], seed=10 + env)
    together = drive(policy, images, firsts)
    for env in range(3):
        policy.assign(0, controllers[env], seed=10 + env)
        alone = drive(policy, images[:, env : env + 1], [[row[env]] for row in firsts])
        np.testing.assert_allclose(together[:, env], alone[:, 0], atol=1e-5)
    assert np.abs(together[:, 0] - together[:, 1]).max() > 0.1


@pytest.mark.parametrize("num_envs", [3, 7])
def test_an_environments_index_and_neighbours_change_no_bit(
    car_spaces: EnvSpaces, num_envs: int
) -> None:
    policy = WorldModelsPolicy(WorldModelsConfig(), car_spaces, seed=0)
    images = frames(3, num_envs)
    firsts = [[True] * num_envs, [False] * num_envs, [False] * num_envs]
    controllers = 0.1 * np.random.default_rng(2).normal(size=(num_envs, 867))

    def actions(order: np.ndarray) -> np.ndarray:
        for env, source in enumerate(order):
            policy.assign(env, controllers[source], seed=int(source))
        return drive(policy, images[:, order], firsts)

    straight = actions(np.arange(num_envs))
    for _ in range(3):
        order = np.random.permutation(num_envs)
        np.testing.assert_array_equal(actions(order), straight[:, order])


def test_the_same_seed_gives_the_same_episode_and_another_seed_another(
    policy: WorldModelsPolicy,
) -> None:
    images = np.repeat(frames(3, 1), 2, axis=1)
    controller = np.random.default_rng(2).normal(size=policy.num_parameters)
    firsts = [[True, True], [False, False], [False, False]]
    policy.assign(0, controller, seed=4)
    policy.assign(1, controller, seed=5)
    first = drive(policy, images, firsts)
    assert not np.allclose(first[:, 0], first[:, 1])
    policy.assign(0, controller, seed=4)
    policy.assign(1, controller, seed=4)
    again = drive(policy, images, firsts)
    np.testing.assert_array_equal(again[:, 0], first[:, 0])
    np.testing.assert_array_equal(again[:, 1], first[:, 0])


def test_nothing_is_remembered_across_the_beginning_of_an_episode(
    policy: WorldModelsPolicy,
) -> None:
    images = frames(4, 1)
    controller = np.random.default_rng(2).normal(size=policy.num_parameters)

    def last_action(history: np.ndarray, is_first: bool) -> np.ndarray:
        policy.assign(0, controller, seed=4)
        sequence = np.concatenate([history, images[3:]])
        return drive(policy, sequence, [[True], [False], [False], [is_first]])[-1]

    other = images[:3].copy()
    other[:] = 255 - other
    assert not np.allclose(last_action(images[:3], False), last_action(other, False))
    np.testing.assert_array_equal(last_action(images[:3], True), last_action(other, True))


def test_without_a_controller_training_explores_and_holds_its_actions(
    policy: WorldModelsPolicy, small: WorldModelsConfig
) -> None:
    images, state, actions = frames(1, 2)[0], policy.initial_state(2), []
    for t in range(200):
        action, state, columns = policy.act(state, env_step(images, [t == 0] * 2), "train")
        actions.append(action)
        assert not columns["latent/mean"].any()
    changes = (np.diff(np.stack(actions), axis=0) != 0).any(-1)  # (T - 1, N)
    mean_held = (small.controller.hold + 1) / 2
    assert changes.mean() == pytest.approx(1 / mean_held, rel=0.4)
    assert (changes[:, 0] != changes[:, 1]).any()
    assert np.stack(actions).std(axis=(0, 1)).min() > 0.3
    brake = np.stack(actions)[..., 2]
    assert 0.25 < (brake == -1.0).mean() < 0.75


def test_a_new_episode_draws_a_new_action(policy: WorldModelsPolicy) -> None:
    state, images, actions = policy.initial_state(1), frames(1, 1)[0], []
    for _ in range(20):
        action, state, _ = policy.act(state, env_step(images, [True]), "train")
        actions.append(action[0])
    assert len(np.unique(actions, axis=0)) == 20


def test_evaluation_never_explores(policy: WorldModelsPolicy) -> None:
    actions = drive(policy, frames(3, 2), [[True, True], [False, False], [False, False]])
    np.testing.assert_allclose(actions, np.broadcast_to([0.0, 0.0, -1.0], actions.shape))


def test_a_published_controller_takes_over(
    policy: WorldModelsPolicy, small: WorldModelsConfig, car_spaces: EnvSpaces
) -> None:
    weights = weights_with_controller(small, car_spaces, version=7)
    step = env_step(frames(1, 1)[0], [True])
    policy.load_weights(weights)
    assert policy.version == 7
    _, _, columns = policy.act(policy.initial_state(1), step, "train")
    assert columns["latent/mean"].any()


def test_weights_of_other_sizes_are_refused(
    policy: WorldModelsPolicy, small: WorldModelsConfig, car_spaces: EnvSpaces
) -> None:
    other = dataclasses.replace(small, memory=dataclasses.replace(small.memory, units=9))
    with pytest.raises(CheckpointError, match="weights of another model"):
        policy.load_weights(weights_with_controller(other, car_spaces))
    assert policy.version == 0


def test_an_environment_without_a_controller_is_named(policy: WorldModelsPolicy) -> None:
    policy.assign(1, np.zeros(policy.num_parameters), seed=0)
    with pytest.raises(ConfigError, match=r"no controller was assigned .* \[0, 2\]"):
        policy.act(policy.initial_state(3), env_step(frames(1, 3)[0], [True] * 3), "eval")


def test_a_controller_of_another_size_is_refused(policy: WorldModelsPolicy) -> None:
    with pytest.raises(ConfigError, match=r"has 39 parameters, got an array \(38,\)"):
        policy.assign(0, np.zeros(38), seed=0)
