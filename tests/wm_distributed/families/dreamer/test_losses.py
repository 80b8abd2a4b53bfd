from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from wm_distributed.api import EnvSpaces
from wm_distributed.collective import Collective
from wm_distributed.families.dreamer import behavior, world_model
from wm_distributed.families.dreamer.behavior import Rollout
from wm_distributed.families.dreamer.config import DreamerConfig, LossConfig
from wm_distributed.families.dreamer.inputs import Noise, Steps, trained_steps
from wm_distributed.families.dreamer.model import DreamerModel
from wm_distributed.families.dreamer.presets import debug
from wm_distributed.families.dreamer.rssm import Posterior
from wm_distributed.ops.normalize import PercentileScale
from wm_distributed.types import TensorBatch


def draw_noise(model: DreamerModel, config: DreamerConfig) -> Noise:
    shape = (config.batch_size, config.batch_length)
    imagined = (config.behavior.horizon, config.batch_size * config.batch_length)
    return Noise(
        posterior=torch.rand(*shape, config.net.stoch),
        prior=torch.rand(*imagined, config.net.stoch),
        action=torch.rand(*imagined, 1),
    )


def forward(
    model: DreamerModel, config: DreamerConfig, batch: TensorBatch
) -> tuple[Steps, Posterior, Rollout]:
    noise = draw_noise(model, config)
    steps = trained_steps(model.acting, config, batch)
    posterior = world_model.observe(model.acting, steps, noise.posterior)
    return steps, posterior, behavior.imagine(model, config, posterior, noise)


def new_scale() -> PercentileScale:
    return PercentileScale(Collective())


def reached(loss: Tensor, modules: Iterable[nn.Module]) -> list[bool]:
    """Whether a gradient that is not zero reaches each module."""
    answers = []
    for module in modules:
        params = [param for param in module.parameters() if param.requires_grad]
        grads = torch.autograd.grad(loss, params, retain_graph=True, allow_unused=True)
        answers.append(any(grad is not None and grad.abs().sum() > 0 for grad in grads))
    return answers


def test_actions_are_shifted_to_the_observations_that_they_led_to(
    model: DreamerModel, config: DreamerConfig, batch: TensorBatch
) -> None:
    steps = trained_steps(model.acting, config, batch)
    assert torch.equal(steps.prev_action.argmax(-1), batch.columns["action"][:, :-1].long())
    assert torch.equal(steps.reward, batch.columns["reward"][:, 1:])
    assert torch.equal(steps.deter, batch.columns["latent/deter"][:, 0].float())
    stored = model.acting.rssm.latent.to_replay(steps.stoch)
    assert torch.equal(stored, batch.columns["latent/stoch"][:, 0])
    assert steps.obs["state"].shape == (3, 6, 3)


def test_the_context_gives_its_state_and_action_but_not_its_observation(
    model: DreamerModel, config: DreamerConfig, batch: TensorBatch
) -> None:
    def final_state(**changes: Tensor) -> Tensor:
        torch.manual_seed(0)
        columns = {name: column.clone() for name, column in batch.columns.items()}
        for name, value in changes.items():
            columns[name.replace("__", "/")][:, 0] = value
        return forward(model, config, TensorBatch(columns, 1))[1].deter

    expected = final_state()
    assert torch.equal(final_state(obs__state=torch.full((3, 3), 9.0)), expected)
    assert torch.equal(final_state(reward=torch.full((3,), 9.0)), expected)
    assert not torch.equal(final_state(latent__deter=torch.zeros(3, 16).half()), expected)
    flipped = 1 - batch.columns["action"][:, 0]
    assert not torch.equal(final_state(action=flipped), expected)


def reward_error(env_spaces: EnvSpaces, *, shift: int) -> float:
    """Error of the predicted reward after training, where reward[t] is action[t - shift]."""
    torch.manual_seed(0)
    net = replace(debug().model.net, deter=64, hidden=32, units=32)
    config = replace(debug().model, net=net, batch_size=16, batch_length=6)
    model = DreamerModel(config, env_spaces)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    shape = (config.batch_size, config.batch_length + 1)
    never = torch.zeros(shape, dtype=torch.bool)
    history = []
    for _ in range(80):
        action = torch.randint(0, 2, shape)
        columns = {
            "obs/state": torch.zeros(*shape, 3),
            "action": action,
            "reward": action.roll(shift, dims=1).float(),
            "is_first": never,
            "is_last": never,
            "is_terminal": never,
            "latent/deter": torch.zeros(*shape, config.net.deter),
            "latent/stoch": torch.zeros(*shape, config.net.stoch, dtype=torch.uint8),
        }
        steps = trained_steps(model.acting, config, TensorBatch(columns, 1))
        posterior = world_model.observe(model.acting, steps, draw_noise(model, config).posterior)
        logits = model.reward(posterior.feat)
        optimizer.zero_grad()
        model.reward.loss(logits, steps.reward).mean().backward()
        optimizer.step()
        predicted = model.reward.mean(logits.detach())
        history.append((predicted - steps.reward).abs().mean().item())
    return sum(history[-10:]) / 10


def test_a_reward_of_the_previous_action_is_learned_and_one_of_the_next_is_not(
    env_spaces: EnvSpaces,
) -> None:
    assert reward_error(env_spaces, shift=1) < 0.15
    # The action after an observation cannot be known from it: nothing is better than a half.
    assert reward_error(env_spaces, shift=0) > 0.4


def test_kl_losses_equal_hand_worked_numbers_and_directions(model: DreamerModel) -> None:
    latent = model.acting.rssm.latent
    posterior = latent.dist(3.0 * torch.randn(2, 5, latent.raw_size)).requires_grad_()
    prior = latent.dist(3.0 * torch.randn(2, 5, latent.raw_size)).requires_grad_()
    dynamics, representation, metrics = world_model.kl_losses(
        model.acting.rssm.latent, LossConfig(free_nats=1.0), posterior, prior
    )
    summed = (posterior * (posterior / prior).log()).sum((-1, -2))
    torch.testing.assert_close(dynamics, summed.clamp_min(1.0).mean())
    assert dynamics == representation
    assert metrics["kl"].item() == pytest.approx(summed.mean().item(), rel=1e-4)
    assert torch.autograd.grad(dynamics, [posterior, prior], allow_unused=True)[0] is None
    assert torch.autograd.grad(representation, [posterior, prior], allow_unused=True)[1] is None


def test_below_the_free_nats_nothing_is_trained(model: DreamerModel) -> None:
    latent = model.acting.rssm.latent
    raw = torch.randn(2, 5, latent.raw_size)
    posterior = latent.dist(raw).requires_grad_()
    prior = latent.dist(raw + 0.01 * torch.randn_like(raw)).requires_grad_()
    scale = LossConfig(free_nats=1.0)
    dynamics, _, metrics = world_model.kl_losses(latent, scale, posterior, prior)
    assert 0.0 < metrics["kl"].item() < 1.0
    assert dynamics.item() == 1.0
    assert torch.autograd.grad(dynamics, prior)[0].abs().sum() == 0.0


def test_the_continuation_learns_the_discount(
    model: DreamerModel, config: DreamerConfig, batch: TensorBatch
) -> None:
    batch.columns["is_terminal"][0, 3] = True
    steps, posterior, _ = forward(model, config, batch)
    terms, _ = world_model.world_model_losses(model, config, steps, posterior)
    prob = model.cont(posterior.feat).sigmoid()
    target = torch.full((3, 6), 1.0 - 1.0 / 333.0)
    target[0, 2] = 0.0
    expected = -(target * prob.log() + (1.0 - target) * (1.0 - prob).log()).mean()
    torch.testing.assert_close(terms["cont"], expected, rtol=1e-4, atol=1e-5)


def test_the_world_model_loss_trains_the_world_model_alone(
    model: DreamerModel, config: DreamerConfig, batch: TensorBatch
) -> None:
    steps, posterior, _ = forward(model, config, batch)
    terms, _ = world_model.world_model_losses(model, config, steps, posterior)
    acting = model.acting
    world = [acting.encoder, acting.rssm, model.decoder, model.reward, model.cont]
    total = torch.stack(list(terms.values())).sum()
    assert reached(total, world) == [True] * 5
    assert reached(total, [acting.actor, model.critic]) == [False] * 2
    for name in ("obs_state", "reward", "cont", "representation"):
        assert reached(terms[name], [acting.encoder]) == [True], name
    assert reached(terms["dynamics"], [acting.rssm.prior, acting.encoder]) == [True, True]


def test_the_imagined_losses_train_actor_and_critic_alone(
    model: DreamerModel, config: DreamerConfig, batch: TensorBatch
) -> None:
    _, _, rollout = forward(model, config, batch)
    terms, _, _ = behavior.actor_critic_losses(model, config, rollout, new_scale())
    acting = model.acting
    world = [acting.encoder, acting.rssm, model.decoder, model.reward, model.cont]
    for loss in terms.values():
        assert reached(loss, world) == [False] * 5
    assert reached(terms["actor"], [acting.actor, model.critic]) == [True, False]
    assert reached(terms["critic"], [acting.actor, model.critic]) == [False, True]


def test_the_replayed_values_train_the_critic_and_the_world_model(
    model: DreamerModel, config: DreamerConfig, batch: TensorBatch
) -> None:
    steps, posterior, rollout = forward(model, config, batch)
    _, returns, _ = behavior.actor_critic_losses(model, config, rollout, new_scale())
    loss = behavior.replay_value_loss(
        model, config, steps, posterior, returns[:, 0].reshape(steps.reward.shape)
    )
    acting = model.acting
    reaches = [model.critic, acting.encoder, acting.rssm.cell]
    assert reached(loss, reaches) == [True] * 3
    assert reached(loss, [acting.actor, model.reward, model.cont]) == [False] * 3


def test_replayed_returns_stop_at_ends_and_pay_nothing_after_a_true_one(
    model: DreamerModel, config: DreamerConfig, batch: TensorBatch
) -> None:
    """The critic's target at the state before an end, worked out by hand."""
    targets: list[Tensor] = []
    batch.columns["is_last"][:2, 4] = True
    batch.columns["is_terminal"][0, 4] = True
    steps, posterior, _ = forward(model, config, batch)
    model.critic.loss = lambda logits, *given: targets.append(given[0]) or logits.sum(-1)  # type: ignore[method-assign,func-returns-value]
    imagined = torch.full(steps.reward.shape, 10.0)
    behavior.replay_value_loss(model, config, steps, posterior, imagined)
    reward, gamma = steps.reward, 1.0 - 1.0 / 333.0
    assert targets[0][0, 2].item() == pytest.approx(reward[0, 3].item(), abs=1e-4)
    truncated = reward[1, 3].item() + gamma * 10.0
    assert targets[0][1, 2].item() == pytest.approx(truncated, rel=1e-4)
    last = reward[2, 5].item() + gamma * 10.0
    assert targets[0][2, 4].item() == pytest.approx(last, rel=1e-4)
    before = reward[2, 4].item() + gamma * (0.05 * 10.0 + 0.95 * last)
    assert targets[0][2, 3].item() == pytest.approx(before, rel=1e-4)


def test_actor_and_critic_losses_equal_a_naive_computation(
    model: DreamerModel, config: DreamerConfig, batch: TensorBatch
) -> None:
    _, _, rollout = forward(model, config, batch)
    return_scale = new_scale()
    terms, returns, _ = behavior.actor_critic_losses(model, config, rollout, return_scale)
    horizon, num = config.behavior.horizon, len(rollout.feats[0])
    assert len(rollout.feats) == horizon + 1
    feat = torch.stack(rollout.feats, dim=1)
    reward = model.reward.mean(model.reward(feat))
    discount = model.cont(feat).sigmoid()
    value = model.critic.mean(model.critic(feat))
    slow = model.critic.mean(model.slow_critic(feat))
    policy = torch.distributions.Categorical(logits=model.acting.actor(feat))
    for row in range(num):
        following = value[row, -1]
        for t in reversed(range(horizon)):
            mixed = 0.05 * value[row, t + 1] + 0.95 * following
            following = reward[row, t + 1] + discount[row, t + 1] * mixed
            assert following.item() == pytest.approx(returns[row, t].item(), rel=1e-3, abs=1e-3)
    action = torch.cat([rollout.action, rollout.action[:, -1:]], dim=1).argmax(-1)
    advantage = (returns - value[:, :-1]) / return_scale.scale()
    weight = discount.cumprod(1)[:, :-1]
    log_prob, entropy = policy.log_prob(action)[:, :-1], policy.entropy()[:, :-1]
    actor_loss = -(weight * (log_prob * advantage + 3e-4 * entropy)).mean()
    logits = model.critic(feat[:, :-1])
    critic_loss = model.critic.loss(logits, returns) + model.critic.loss(logits, slow[:, :-1])
    torch.testing.assert_close(terms["actor"], actor_loss, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(terms["critic"], (weight * critic_loss).mean(), rtol=1e-3, atol=1e-4)


def test_imagination_starts_at_every_replayed_state_and_follows_the_actor(
    model: DreamerModel, config: DreamerConfig, batch: TensorBatch
) -> None:
    _, posterior, rollout = forward(model, config, batch)
    assert torch.equal(rollout.feats[0], posterior.feat.flatten(0, 1).detach())
    assert not any(feat.requires_grad for feat in rollout.feats)
    torch.nn.init.constant_(model.acting.actor.out.bias[:1], 50.0)  # action 0 from now on
    _, _, decided = forward(model, config, batch)
    assert decided.action.argmax(-1).eq(0).all()
    assert rollout.action.argmax(-1).float().mean() > 0.2


def test_computing_time_by_time_equals_computing_at_once(
    model: DreamerModel,
    config: DreamerConfig,
    batch: TensorBatch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _, _, rollout = forward(model, config, batch)
    by_time, returns, _ = behavior.actor_critic_losses(model, config, rollout, new_scale())
    monkeypatch.setattr(behavior, "in_parts", lambda tensors: [torch.cat(tensors)])
    at_once, same, _ = behavior.actor_critic_losses(model, config, rollout, new_scale())
    torch.testing.assert_close(same, returns)
    for name, loss in by_time.items():
        torch.testing.assert_close(at_once[name], loss, rtol=1e-4, atol=1e-5)
