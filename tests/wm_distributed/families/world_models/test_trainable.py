import dataclasses
import io
from typing import Any

import numpy as np
import pytest
import torch

from wm_distributed.api import EnvSpaces, TrainContext
from wm_distributed.errors import CheckpointError, ConfigError
from wm_distributed.families.world_models import FAMILY
from wm_distributed.families.world_models.config import WorldModelsConfig
from wm_distributed.families.world_models.policy import WorldModelsPolicy
from wm_distributed.families.world_models.trainable import WorldModelsTrainable
from wm_distributed.families.world_models.vision import to_pixels
from wm_distributed.types import EnvStep, TensorBatch, Weights


@pytest.fixture
def trainable(
    small: WorldModelsConfig, car_spaces: EnvSpaces, context: TrainContext
) -> WorldModelsTrainable:
    return WorldModelsTrainable(small, car_spaces, context)


def snapshot(trainable: WorldModelsTrainable) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in trainable.model.state_dict().items()}


def changed(trainable: WorldModelsTrainable, before: dict[str, torch.Tensor]) -> set[str]:
    after = trainable.model.state_dict()
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def batch_for(phase: str, make_batch: Any) -> TensorBatch:
    if phase == "vision":
        return make_batch(4, 1)
    return make_batch(3, 7, ((0, 0), (1, 3)), context=1, images=False)


@pytest.mark.parametrize(
    ("phase", "parts"),
    [("vision", ("acting.encoder.", "decoder.")), ("memory", ("acting.memory.",))],
)
def test_a_phase_trains_every_parameter_of_its_own_and_no_other(
    trainable: WorldModelsTrainable, make_batch, phase: str, parts: tuple[str, ...]
) -> None:
    before = snapshot(trainable)
    carry = trainable.init_train(phase, 4)
    _, output = trainable.train_step(phase, carry, batch_for(phase, make_batch))
    assert changed(trainable, before) == {name for name in before if name.startswith(parts)}
    assert all(torch.isfinite(torch.as_tensor(value)) for value in output.metrics.values())
    assert {name.split("_")[0] for name in output.metrics} == {phase}


@pytest.mark.parametrize("phase", ["vision", "memory"])
def test_micro_batches_train_as_the_whole_batch(
    small: WorldModelsConfig, car_spaces: EnvSpaces, context: TrainContext, make_batch, phase: str
) -> None:
    batch = make_batch(4, 1) if phase == "vision" else make_batch(4, 7, context=1, images=False)
    whole, parted = (
        WorldModelsTrainable(small, car_spaces, dataclasses.replace(context, micro_batches=parts))
        for parts in (1, 4)
    )
    for _ in range(3):
        _, expected = whole.train_step(phase, None, batch)
        _, found = parted.train_step(phase, None, batch)
        assert found.metrics.keys() == expected.metrics.keys()
        for name, value in expected.metrics.items():
            assert found.metrics[name].item() == pytest.approx(value.item(), rel=1e-3), name


def test_the_learning_rates_and_the_clipping_are_the_papers() -> None:
    config = WorldModelsConfig()
    assert (config.vision.optim.lr, config.vision.optim.clip_value) == (1e-4, None)
    assert (config.memory.optim.lr, config.memory.optim.clip_value) == (1e-3, 1.0)
    assert config.vision.optim.kind == config.memory.optim.kind == "adam"


@pytest.mark.parametrize("phase", ["vision", "memory"])
def test_a_first_step_is_adams(trainable: WorldModelsTrainable, make_batch, phase: str) -> None:
    """Adam's first update has the size of the learning rate wherever there is a gradient."""
    before = snapshot(trainable)
    trainable.train_step(phase, None, batch_for(phase, make_batch))
    after = trainable.model.state_dict()
    lr = {"vision": 1e-4, "memory": 1e-3}[phase]
    moved = torch.cat([(after[name] - before[name]).abs().flatten() for name in before])
    assert moved.max().item() == pytest.approx(lr, rel=1e-3)
    assert (moved > 0.9 * lr).sum() > 0.5 * (moved > 0).sum()


def test_numbers_of_the_memorys_gradient_are_clipped(
    trainable: WorldModelsTrainable, make_batch
) -> None:
    batch = batch_for("memory", make_batch)
    batch.columns["reward"] *= 1e4
    _, output = trainable.train_step("memory", None, batch)
    assert output.metrics["memory_grad_norm"].item() > 100.0
    gradient = torch.cat([p.grad.flatten() for p in trainable.model.acting.memory.parameters()])
    assert gradient.abs().max().item() == 1.0


def test_z_is_drawn_again_for_each_batch(
    small: WorldModelsConfig, car_spaces: EnvSpaces, context: TrainContext, make_batch
) -> None:
    still = dataclasses.replace(small.memory.optim, lr=0.0)
    config = dataclasses.replace(small, memory=dataclasses.replace(small.memory, optim=still))
    trainable = WorldModelsTrainable(config, car_spaces, context)
    batch = batch_for("memory", make_batch)
    values = [
        trainable.train_step("memory", None, batch)[1].metrics["memory_loss_latent"].item()
        for _ in range(3)
    ]
    assert len(set(values)) == 3


def test_equal_seeds_build_equal_models_and_others_do_not(
    small: WorldModelsConfig, car_spaces: EnvSpaces, context: TrainContext
) -> None:
    first, again, other = (
        WorldModelsTrainable(small, car_spaces, dataclasses.replace(context, seed=seed))
        for seed in (1, 1, 2)
    )
    assert np.array_equal(first.policy_weights(), again.policy_weights())
    assert not np.array_equal(first.policy_weights(), other.policy_weights())


@pytest.mark.parametrize("phase", ["vision", "memory"])
def test_a_restored_checkpoint_goes_on_exactly(
    trainable: WorldModelsTrainable,
    small: WorldModelsConfig,
    car_spaces: EnvSpaces,
    context: TrainContext,
    make_batch,
    phase: str,
) -> None:
    batch = batch_for(phase, make_batch)
    for _ in range(2):
        trainable.train_step(phase, None, batch)
    other = WorldModelsTrainable(small, car_spaces, dataclasses.replace(context, seed=99))
    other.load_state_dict(through_a_file(trainable.state_dict()))
    for _ in range(2):
        _, expected = trainable.train_step(phase, None, batch)
        _, output = other.train_step(phase, None, batch)
        assert output.metrics == expected.metrics


def test_a_restored_checkpoint_acts_identically(
    trainable: WorldModelsTrainable,
    small: WorldModelsConfig,
    car_spaces: EnvSpaces,
    context: TrainContext,
    make_batch,
) -> None:
    trainable.train_step("vision", None, batch_for("vision", make_batch))
    parameters = np.random.default_rng(0).normal(size=39)
    trainable.set_controller(parameters)
    other = WorldModelsTrainable(small, car_spaces, dataclasses.replace(context, seed=99))
    other.load_state_dict(through_a_file(trainable.state_dict()))
    np.testing.assert_array_equal(other.controller(), parameters.astype(np.float32))
    images = np.random.default_rng(1).integers(0, 256, (3, 64, 64, 3), np.uint8)
    none = np.zeros(3, np.bool_)
    step = EnvStep({"image": images}, np.zeros(3, np.float32), ~none, none, none)
    actions = []
    for source in (trainable, other):
        policy = WorldModelsPolicy(small, car_spaces, seed=5)
        policy.load_weights(Weights(1, source.policy_weights()))
        state = policy.initial_state(3)
        for _ in range(3):
            action, state, _ = policy.act(state, step, "eval")
            actions.append(action)
    np.testing.assert_array_equal(np.stack(actions[:3]), np.stack(actions[3:]))


def test_checkpoints_of_another_size_or_family_are_refused(
    trainable: WorldModelsTrainable,
    small: WorldModelsConfig,
    car_spaces: EnvSpaces,
    context: TrainContext,
) -> None:
    larger = dataclasses.replace(small, memory=dataclasses.replace(small.memory, units=9))
    state = WorldModelsTrainable(larger, car_spaces, context).state_dict()
    with pytest.raises(CheckpointError, match=r"(?s)of another size.*memory\.weight"):
        trainable.load_state_dict(state)
    with pytest.raises(CheckpointError, match="'world_models', got 'dreamer'"):
        trainable.load_state_dict({**state, "family": "dreamer"})


def test_a_phase_that_it_does_not_have_is_refused(
    trainable: WorldModelsTrainable, make_batch
) -> None:
    with pytest.raises(ConfigError, match="expected phase 'vision' or 'memory', got 'agent'"):
        trainable.train_step("agent", None, make_batch(1, 1))


def test_the_family_gives_a_phase_to_each_part(small: WorldModelsConfig) -> None:
    collect, vision, encode, memory, controller = FAMILY.phases(small)
    assert [collect.kind, encode.kind, controller.kind] == ["collection", "sweep", "population"]
    assert (vision.name, vision.data.batch_size, vision.data.length) == ("vision", 100, 1)
    assert (memory.name, memory.data.length, memory.data.context) == ("memory", 6, 1)
    assert (vision.steps, memory.steps) == (100_000, 4_000)
    assert vision.data.table != memory.data.table  # one table cannot serve both
    assert vision.data.table == encode.data.table
    assert not any(name.startswith("obs/") for name in memory.data.columns)


def test_encoding_gives_what_v_makes_of_each_frame_and_changes_nothing(
    trainable: WorldModelsTrainable, make_batch
) -> None:
    batch = make_batch(5, 1)
    before = trainable.policy_weights()
    _, output = trainable.train_step("encode", None, batch)
    assert np.array_equal(trainable.policy_weights(), before)
    pixels = to_pixels(batch.columns["obs/image"])
    with torch.no_grad():
        mean, log_var = trainable.model.acting.encoder(pixels)
    assert output.update.keys() == {"latent/mean", "latent/log_var"}
    torch.testing.assert_close(output.update["latent/mean"][:, 0], mean)
    torch.testing.assert_close(output.update["latent/log_var"][:, 0], log_var)


def test_the_family_builds_what_it_says(
    small: WorldModelsConfig, car_spaces: EnvSpaces, context: TrainContext, make_batch
) -> None:
    FAMILY.check(small, car_spaces)
    trainable = FAMILY.build_trainable(small, car_spaces, context)
    simulator = FAMILY.build_simulator(trainable)
    state = simulator.start(make_batch(2, 4))
    _, step = simulator.step(state, torch.zeros(2, 3))
    assert step.obs["image"].shape == (2, 3, 64, 64)
    assert step.reward.shape == step.cont.shape == (2,)
    policy = FAMILY.build_policy(small, car_spaces, 0)
    policy.load_weights(Weights(1, trainable.policy_weights()))
    assert policy.version == 1


def test_another_controller_takes_over_vision_and_memory_alone(
    small: WorldModelsConfig, car_spaces: EnvSpaces, context: TrainContext
) -> None:
    earlier = WorldModelsTrainable(small, car_spaces, dataclasses.replace(context, seed=7))
    earlier.set_controller(np.ones_like(earlier.controller()))
    same = WorldModelsTrainable(small, car_spaces, context)
    same.take_over(earlier)
    assert same.controller().all()
    z_only = dataclasses.replace(small.controller, inputs="z")
    config = dataclasses.replace(small, controller=z_only)
    other = WorldModelsTrainable(config, car_spaces, context)
    other.take_over(earlier)
    assert not other.controller().any()
    for name, tensor in earlier.model.state_dict().items():
        if "controller" not in name:
            assert torch.equal(other.model.state_dict()[name], tensor), name


def test_another_memory_takes_nothing_over(
    small: WorldModelsConfig, car_spaces: EnvSpaces, context: TrainContext
) -> None:
    memory = dataclasses.replace(small.memory, units=9)
    other = WorldModelsTrainable(dataclasses.replace(small, memory=memory), car_spaces, context)
    with pytest.raises(CheckpointError, match="another size"):
        other.take_over(WorldModelsTrainable(small, car_spaces, context))
