"""What V1 and V2 do differently from V3, with the same modules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, nn

from wm_distributed.api import EnvSpaces, Policy, TrainContext
from wm_distributed.collective import Collective
from wm_distributed.families.dreamer import behavior, world_model
from wm_distributed.families.dreamer.config import DreamerConfig, NetConfig
from wm_distributed.families.dreamer.inputs import draw_noise, trained_steps
from wm_distributed.families.dreamer.model import DreamerModel
from wm_distributed.families.dreamer.policy import DreamerPolicy
from wm_distributed.families.dreamer.presets import debug, v1_dmc_vision, v2_atari
from wm_distributed.families.dreamer.trainable import DreamerTrainable
from wm_distributed.nets.captured import Captured, tensors_of
from wm_distributed.ops.normalize import PercentileScale
from wm_distributed.testing.tape import record_on_tape
from wm_distributed.types import EnvStep, TensorBatch

Collect = Callable[[Policy, list[EnvStep]], TensorBatch]
MakeSteps = Callable[[EnvSpaces, int, int], list[EnvStep]]
CONTINUOUS = EnvSpaces(
    {"state": spaces.Box(-1.0, 1.0, (3,), np.float32)}, spaces.Box(-1.0, 1.0, (2,), np.float32)
)


def shrink(config: DreamerConfig) -> DreamerConfig:
    """The configuration with the sizes of the debug preset."""
    small = debug().model.net
    kinds = ("cell", "prior_layers", "scalar", "actor", "norm", "act")
    net = replace(small, **{name: getattr(config.net, name) for name in kinds})
    loss = replace(config.loss, free_nats=0.0)  # so few variables never reach the published ones
    return replace(config, net=net, loss=loss, batch_size=3, batch_length=6)


V1, V2 = shrink(v1_dmc_vision().model), shrink(v2_atari().model)


@pytest.fixture
def batch_of(make_steps: MakeSteps, collect: Collect) -> Callable[[DreamerConfig], TensorBatch]:
    def make(config: DreamerConfig) -> TensorBatch:
        steps = make_steps(CONTINUOUS, config.batch_size, config.batch_length + 1)
        return collect(DreamerPolicy(config, CONTINUOUS, 0), steps)

    return make


def imagined_losses(
    config: DreamerConfig, batch: TensorBatch
) -> tuple[DreamerModel, dict[str, Tensor], Tensor]:
    model = DreamerModel(config, CONTINUOUS)
    for layer in (model.acting.actor.out, model.reward.out, model.critic.out):
        torch.nn.init.normal_(layer.weight)
    generator = torch.Generator().manual_seed(0)
    shape = torch.Size((config.batch_size, config.batch_length))
    noise = draw_noise(model.acting, config, shape, torch.device("cpu"), generator)
    steps = trained_steps(model.acting, config, batch)
    posterior = world_model.observe(model.acting, steps, noise.posterior)
    rollout = behavior.imagine(model, config, posterior, noise)
    scale = PercentileScale(Collective())
    terms, returns, _ = behavior.actor_critic_losses(model, config, rollout, scale)
    return model, terms, returns


def gradient_sizes(loss: Tensor, module: nn.Module) -> float:
    params = list(module.parameters())
    grads = torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True)
    return sum(float(grad.abs().sum()) for grad in grads if grad is not None)


@pytest.mark.parametrize("config", [V1, V2], ids=["v1", "v2"])
def test_every_network_is_trained_by_its_own_optimiser(
    config: DreamerConfig, batch_of: Callable[[DreamerConfig], TensorBatch], context: TrainContext
) -> None:
    trainable = DreamerTrainable(config, CONTINUOUS, context)
    before = {name: value.clone() for name, value in trainable.model.state_dict().items()}
    batch = batch_of(config)
    for _ in range(3):
        _, output = trainable.train_step("agent", None, batch)
    assert all(np.isfinite(float(value)) for value in output.metrics.values())
    assert {"model_grad_norm", "actor_grad_norm", "critic_grad_norm"} <= output.metrics.keys()
    after = trainable.model.state_dict()
    same = {name for name, value in before.items() if torch.equal(value, after[name])}
    slow = {name for name in after if name.startswith("slow_critic")}
    assert same == (slow if config.behavior.slow_every > 3 else set())


def test_the_first_version_s_actor_learns_through_the_dynamics_alone(
    batch_of: Callable[[DreamerConfig], TensorBatch],
) -> None:
    model, terms, returns = imagined_losses(V1, batch_of(V1))
    acting = model.acting
    assert gradient_sizes(terms["actor"], acting.actor) > 0.0
    for module in (acting.encoder, acting.rssm, model.decoder, model.reward, model.critic):
        assert gradient_sizes(terms["actor"], module) == 0.0
    assert gradient_sizes(terms["critic"], model.critic) > 0.0
    assert gradient_sizes(terms["critic"], acting.actor) == 0.0
    assert not returns.requires_grad
    assert all(param.requires_grad for param in model.world_parameters())


def test_the_first_version_s_actor_follows_the_gradient_of_the_imagined_return(
    batch_of: Callable[[DreamerConfig], TensorBatch],
) -> None:
    """A small step along the gradient changes the loss by what the gradient promises."""
    config = replace(V1, behavior=replace(V1.behavior, horizon=2))
    batch = batch_of(config)
    model, terms, _ = imagined_losses(config, batch)
    step = 1.0
    params = list(model.acting.actor.parameters())
    grads = torch.autograd.grad(terms["actor"], params)
    with torch.no_grad():
        for param, grad in zip(params, grads, strict=True):
            param -= step * grad
    generator = torch.Generator().manual_seed(0)
    noise = draw_noise(model.acting, config, torch.Size((3, 6)), torch.device("cpu"), generator)
    steps = trained_steps(model.acting, config, batch)
    posterior = world_model.observe(model.acting, steps, noise.posterior)
    rollout = behavior.imagine(model, config, posterior, noise)
    after, _, _ = behavior.actor_critic_losses(
        model, config, rollout, PercentileScale(Collective())
    )
    expected = -step * sum(float(grad.square().sum()) for grad in grads)
    change = float(after["actor"].detach() - terms["actor"].detach())
    assert change == pytest.approx(expected, rel=0.1)
    assert expected < -1e-4


def test_the_second_version_bootstraps_from_a_slow_critic(
    batch_of: Callable[[DreamerConfig], TensorBatch], context: TrainContext
) -> None:
    config = replace(V2, behavior=replace(V2.behavior, slow_every=2))
    trainable = DreamerTrainable(config, CONTINUOUS, context)
    batch = batch_of(config)
    first = trainable.model.slow_critic.out.weight.clone()
    trainable.train_step("agent", None, batch)
    assert torch.equal(trainable.model.slow_critic.out.weight, first)
    trainable.train_step("agent", None, batch)
    assert torch.equal(trainable.model.slow_critic.out.weight, trainable.model.critic.out.weight)
    assert not torch.equal(trainable.model.slow_critic.out.weight, first)

    model = trainable.model
    feats = list(torch.randn(4, 5, model.acting.feat_size).unbind())
    torch.nn.init.constant_(model.slow_critic.out.bias, 7.0)
    torch.nn.init.zeros_(model.slow_critic.out.weight)
    values = behavior._values(model, config.behavior, feats, [])
    assert values.tolist() == [[7.0] * 4] * 5


def test_the_second_version_balances_the_divergence() -> None:
    loss = v2_atari().model.loss
    assert loss.dynamics / (loss.dynamics + loss.representation) == pytest.approx(0.8)


def test_free_nats_of_the_mean_train_steps_below_it() -> None:
    model = DreamerModel(V2, CONTINUOUS)
    latent = model.acting.rssm.latent
    raw = torch.randn(2, 5, latent.raw_size)
    posterior = latent.dist(raw).requires_grad_()
    prior = latent.dist(raw + 2.0 * torch.randn_like(raw)).requires_grad_()
    each = latent.kl(posterior, prior)
    free = float(each.detach().mean()) * 0.99
    assert (each < free).any()
    scale = replace(V2.loss, free_nats=free, free_nats_of_mean=True)
    dynamics, _, _ = world_model.kl_losses(latent, scale, posterior, prior)
    (grad,) = torch.autograd.grad(dynamics, prior)
    assert (grad.abs().sum((-1, -2)) > 0).all()


def test_rewards_are_squashed_where_asked(
    batch_of: Callable[[DreamerConfig], TensorBatch],
) -> None:
    batch = batch_of(V2)
    model = DreamerModel(V2, CONTINUOUS)
    reward = batch.columns["reward"][:, 1:]
    assert torch.equal(trained_steps(model.acting, V2, batch).reward, reward.tanh())
    assert torch.equal(trained_steps(model.acting, V1, batch).reward, reward)


def test_the_first_version_explores_with_noise_and_is_evaluated_without(
    make_steps: MakeSteps,
) -> None:
    loud = replace(V1, behavior=replace(V1.behavior, exploration_noise=100.0))
    step = make_steps(CONTINUOUS, 3, 1)[0]

    def act(config: DreamerConfig, mode: str, seed: int = 0) -> np.ndarray:
        policy = DreamerPolicy(config, CONTINUOUS, 0)
        policy._generator.manual_seed(seed)
        return policy.act(policy.initial_state(3), step, mode)[0]  # type: ignore[arg-type]

    assert np.abs(act(loud, "train")).min() == 1.0  # noise of 100, clipped
    assert np.abs(act(loud, "eval")).max() < 1.0
    sampled = replace(V1, behavior=replace(V1.behavior, exploration_noise=0.0))
    assert not np.array_equal(act(sampled, "train"), act(sampled, "eval"))


def test_sizes_of_the_papers() -> None:
    v1, v2 = v1_dmc_vision().model.net, v2_atari().model.net
    assert (v1.deter, v1.stoch, v1.hidden, v1.units) == (200, 30, 200, 400)
    assert (v2.deter, v2.stoch, v2.classes, v2.units) == (600, 32, 32, 400)
    assert NetConfig().cell == "block_gru"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("config", [V1, V2, shrink(debug().model)], ids=["v1", "v2", "v3"])
def test_a_train_step_that_is_replayed_is_the_same_step(
    config: DreamerConfig,
    precision: Literal["float32", "bfloat16"],
    batch_of: Callable[[DreamerConfig], TensorBatch],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As its CUDA graph would be: nothing of it waits, draws numbers or is left to Python."""
    path = "wm_distributed.families.dreamer.trainable.Captured"
    monkeypatch.setattr(path, partial(Captured, record=record_on_tape))
    plain, replayed = (
        DreamerTrainable(
            config,
            CONTINUOUS,
            TrainContext("cpu", precision, False, 0, Collective(), cuda_graphs=graphs),
        )
        for graphs in (False, True)
    )
    for _ in range(6):
        batch = batch_of(config)
        outputs = [trainable.train_step("agent", None, batch)[1] for trainable in (plain, replayed)]
        found, expected = map(tensors_of, outputs)
        assert len(found) == len(expected) > 10
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    found, expected = (tensors_of(t.state_dict()["model"]) for t in (plain, replayed))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
