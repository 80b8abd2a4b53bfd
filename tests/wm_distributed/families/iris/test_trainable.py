from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from gymnasium import spaces

from wm_distributed.api import EnvSpaces, Phase
from wm_distributed.errors import ConfigError
from wm_distributed.families.iris import FAMILY
from wm_distributed.families.iris.config import (
    ACTOR_CRITIC,
    TOKENIZER,
    WORLD_MODEL,
    ActorCriticConfig,
    IrisConfig,
    TokenizerConfig,
    WorldModelConfig,
)
from wm_distributed.families.iris.model import IrisModel
from wm_distributed.families.iris.presets import PRESETS, atari100k
from wm_distributed.families.iris.trainable import IrisTrainable
from wm_distributed.types import TensorBatch

Build = Callable[..., IrisTrainable]
MakeBatch = Callable[..., TensorBatch]
PARTS = {TOKENIZER: "acting.tokenizer", WORLD_MODEL: "world_model", ACTOR_CRITIC: "acting.actor"}


@pytest.mark.parametrize("phase", PARTS)
def test_a_phase_trains_its_own_part_and_no_other(
    phase: str, config: IrisConfig, build: Build, make_batch: MakeBatch
) -> None:
    trainable = build(config)
    before = {name: param.clone() for name, param in trainable.model.named_parameters()}
    trainable.train_step(phase, None, make_batch(config, phase))
    moved = [n for n, p in trainable.model.named_parameters() if not torch.equal(p, before[n])]
    own = (PARTS[phase], "value") if phase == ACTOR_CRITIC else (PARTS[phase],)
    assert moved
    assert all(name.startswith(own) for name in moved)


@pytest.mark.parametrize("phase", [TOKENIZER, WORLD_MODEL])
def test_micro_batches_train_as_the_whole_batch(
    phase: str, config: IrisConfig, build: Build, make_batch: MakeBatch
) -> None:
    tokenizer = replace(config.tokenizer, codebook="ema", ema_decay=0.5)
    still = replace(config.world_model, dropout=0.0)
    config = replace(config, tokenizer=tokenizer, world_model=still)
    batch = make_batch(config, phase, 4)
    for name in ("is_first", "is_last"):  # so that every part has as many transitions to predict
        batch.columns[name].fill_(False)
    whole, parted = build(config), build(config, micro_batches=4)
    for _ in range(3):
        expected = whole.train_step(phase, None, batch)[1].metrics
        found = parted.train_step(phase, None, batch)[1].metrics
        for figure in ("loss", "grad_norm"):
            value = float(expected[f"{phase}_{figure}"])
            assert float(found[f"{phase}_{figure}"]) == pytest.approx(value, rel=1e-3)
    codebooks = [t.model.acting.tokenizer.codebook for t in (whole, parted)]
    torch.testing.assert_close(codebooks[0].counts, codebooks[1].counts)
    torch.testing.assert_close(codebooks[0].codes, codebooks[1].codes, rtol=1e-3, atol=1e-4)


def test_frames_are_standardised_once_for_all_micro_batches(
    config: IrisConfig, build: Build, make_batch: MakeBatch
) -> None:
    config = replace(config, actor_critic=replace(config.actor_critic, standardize=True))
    batch = make_batch(config, ACTOR_CRITIC, 4)
    whole, parted = build(config), build(config, micro_batches=2)
    for trainable in (whole, parted):
        trainable.train_step(ACTOR_CRITIC, None, batch)
    seen = [dict(t.model.acting.actor.standardize.named_buffers()) for t in (whole, parted)]
    assert seen[0].keys() == seen[1].keys()
    assert all(torch.equal(value, seen[1][name]) for name, value in seen[0].items())


@pytest.mark.parametrize("phase", PARTS)
def test_another_learner_takes_over_exactly_what_a_phase_has_trained(
    phase: str, config: IrisConfig, build: Build, make_batch: MakeBatch
) -> None:
    moving = replace(config.tokenizer, codebook="ema")
    seeing = replace(config.actor_critic, standardize=True)
    config = replace(config, tokenizer=moving, actor_critic=seeing)
    giving, taking = build(config), build(config)
    before = {name: value.clone() for name, value in taking.model.state_dict().items()}
    giving.train_step(phase, None, make_batch(config, phase))
    taking.load_part(phase, giving.part_weights(phase))
    after = taking.model.state_dict()
    assert all(torch.equal(value, after[n]) for n, value in giving.model.state_dict().items())
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


def test_the_world_model_learns_a_batch_by_heart(
    config: IrisConfig, build: Build, make_batch: MakeBatch
) -> None:
    fast = replace(config.world_model.optim, lr=1e-2)
    config = replace(config, world_model=replace(config.world_model, dropout=0.0, optim=fast))
    trainable, batch = build(config), make_batch(config, WORLD_MODEL)
    losses = [
        trainable.train_step(WORLD_MODEL, None, batch)[1].metrics["world_model_loss"]
        for _ in range(40)
    ]
    assert float(losses[-1]) < 0.5 * float(losses[0])


def test_a_step_tells_how_fast_it_imagines_and_what_part_of_it_that_takes(
    config: IrisConfig, build: Build, make_batch: MakeBatch
) -> None:
    batch = make_batch(config, ACTOR_CRITIC)
    _, output = build(config).train_step(ACTOR_CRITIC, None, batch)
    told = {name: float(value) for name, value in output.metrics.items()}
    frames = len(batch.columns["reward"]) * config.actor_critic.horizon
    imagining = told["actor_critic_imagination_seconds"]
    assert told["actor_critic_imagined_frames_per_second"] == pytest.approx(frames / imagining)
    assert 0 < imagining < told["actor_critic_step_seconds"]


def test_only_matrices_decay(config: IrisConfig, build: Build, make_batch: MakeBatch) -> None:
    still = replace(config.world_model.optim, clip_norm=1e-30, weight_decay=100.0)
    config = replace(config, world_model=replace(config.world_model, optim=still))
    trainable = build(config)
    model = trainable.model.world_model
    for param in model.parameters():
        torch.nn.init.ones_(param)
    trainable.train_step(WORLD_MODEL, None, make_batch(config, WORLD_MODEL))
    shrunk = {name for name, param in model.named_parameters() if param.mean() < 0.95}
    linear = {n for n, part in model.named_modules() if isinstance(part, torch.nn.Linear)}
    assert shrunk == {f"{name}.weight" for name in linear}


def test_the_schedule_of_the_paper_is_the_preset_s() -> None:
    run = atari100k()
    tokenizer, world, actor = FAMILY.phases(run.model)
    assert [phase.steps for phase in (tokenizer, world, actor)] == [200, 200, 200]
    # Epoch e is cycle e − 5: replay holds the first five epochs' steps before the first cycle.
    assert run.replay.min_size == 5 * 200
    assert [world.first_cycle, actor.first_cycle] == [25 - 5, 50 - 5]
    assert tokenizer.data is not None
    assert tokenizer.steps is not None
    # The tokenizer's frames pace collection: 200 environment steps a cycle, whoever else trains.
    assert tokenizer.steps * tokenizer.data.trained_steps == 200 * (run.replay.ratio or 0.0)
    assert _counted(world) == _counted(actor) == 0


def test_collection_is_paced_by_a_phase_that_never_leaves(config: IrisConfig) -> None:
    stopping = replace(config, tokenizer=replace(config.tokenizer, cycles=3))
    assert [_counted(phase) > 0 for phase in FAMILY.phases(config)] == [True, False, False]
    tokenizer, *others = FAMILY.phases(stopping)
    assert [_counted(phase) > 0 for phase in (tokenizer, *others)] == [False, True, False]
    assert [tokenizer.takes_part(cycle) for cycle in (0, 2, 3)] == [True, True, False]


def _counted(phase: Phase) -> int:
    assert phase.data is not None
    return phase.data.trained_steps


def test_published_numbers() -> None:
    model = IrisConfig()
    tokenizer, world, actor = model.tokenizer, model.world_model, model.actor_critic
    assert (tokenizer.batch_size, world.batch_size, actor.batch_size) == (256, 64, 64)
    assert (world.blocks, world.layers, world.heads, world.width) == (20, 10, 4, 256)
    assert (world.dropout, world.optim.weight_decay, world.refill_blocks) == (0.1, 0.01, 1)
    assert (actor.burn_in, actor.horizon, actor.gamma, actor.lam) == (20, 20, 0.995, 0.95)
    assert (actor.entropy, actor.epsilon, actor.eval_temperature) == (0.001, 0.01, 0.5)
    for part in (tokenizer, world, actor):
        assert (part.optim.lr, part.optim.clip_norm, part.optim.kind) == (1e-4, 10.0, "adam")


def test_published_sizes_in_parameters() -> None:
    image = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    with torch.device("meta"):
        model = IrisModel(IrisConfig(), EnvSpaces({"image": image}, spaces.Discrete(6)))
    sizes = {
        name: sum(param.numel() for param in part.parameters())
        for name, part in {
            "tokenizer": model.acting.tokenizer,
            "world model": model.world_model,
            "actor": model.acting.actor,
        }.items()
    }
    # 15.7 million in all, with the value's 513.
    assert sizes == {"tokenizer": 4_027_523, "world model": 8_447_748, "actor": 3_218_470}


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_s_batches_fit_its_window(name: str) -> None:
    run = PRESETS[name]()
    assert run.preset == name
    _, world, actor = FAMILY.phases(run.model)
    assert world.data is not None
    assert actor.data is not None
    assert world.data.context + world.data.length == run.model.world_model.blocks + 1
    assert actor.data.context + actor.data.length == run.model.actor_critic.burn_in + 1


@pytest.mark.parametrize(
    ("obs", "action", "message"),
    [
        ((32, 32, 3), spaces.Box(-1.0, 1.0, (2,)), "discrete actions, got Box"),
        ((32, 48, 3), spaces.Discrete(3), "a square image in uint8, got"),
        ((40, 40, 3), spaces.Discrete(3), "40×40 pixels cannot be cut into patches of 16×16"),
    ],
)
def test_spaces_that_do_not_fit_are_refused(
    obs: tuple[int, ...], action: spaces.Space, message: str, config: IrisConfig
) -> None:
    image = spaces.Box(0, 255, obs, np.uint8)
    assert FAMILY.check is not None
    with pytest.raises(ConfigError, match=message):
        FAMILY.check(config, EnvSpaces({"image": image}, action))  # type: ignore[arg-type]


def test_sizes_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"divisible by .*heads, got 10 and 4"):
        IrisConfig(world_model=WorldModelConfig(width=10))
    with pytest.raises(ConfigError, match=r"less than model.world_model.blocks 20, got 20"):
        IrisConfig(world_model=WorldModelConfig(refill_blocks=20))
    with pytest.raises(ConfigError, match=r"burn_in \+ 1 = 3, got 4"):
        IrisConfig(
            world_model=WorldModelConfig(refill_blocks=4), actor_critic=ActorCriticConfig(burn_in=2)
        )
    with pytest.raises(ConfigError, match="vocabulary must be at least 2, got 1"):
        IrisConfig(tokenizer=TokenizerConfig(vocabulary=1))
    with pytest.raises(ConfigError, match=r"need at least one number, got \(\) and"):
        IrisConfig(tokenizer=TokenizerConfig(multiples=()))


def test_an_unknown_phase_is_refused(config: IrisConfig, build: Build) -> None:
    with pytest.raises(ConfigError, match="got 'agent'"):
        build(config).init_train("agent", 4)
