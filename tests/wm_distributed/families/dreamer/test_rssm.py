from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from wm_distributed.families.dreamer.config import DreamerConfig
from wm_distributed.families.dreamer.rssm import RSSM, Posterior


def rssm_and_inputs(config: DreamerConfig) -> tuple[RSSM, dict[str, Tensor]]:
    rssm = RSSM(config, embed_size=5, action_size=2)
    for param in rssm.parameters():
        torch.nn.init.normal_(param, std=0.5)
    batch, steps = config.batch_size, config.batch_length
    inputs = {
        "embed": torch.randn(batch, steps, 5),
        "prev_action": torch.randn(batch, steps, 2),
        "is_first": torch.zeros(batch, steps, dtype=torch.bool),
        "deter": torch.rand(batch, rssm.deter_size) - 0.5,
        "stoch": torch.rand(batch, rssm.stoch_size),
        "noise": torch.rand(batch, steps, config.net.stoch),
    }
    return rssm, inputs


def test_a_sequence_equals_its_steps_one_by_one(config: DreamerConfig) -> None:
    rssm, inputs = rssm_and_inputs(config)
    inputs["is_first"][1, 3] = True
    whole = rssm.observe(**inputs)
    deter, stoch = inputs["deter"], inputs["stoch"]
    for t in range(config.batch_length):
        over_time = {
            name: inputs[name][:, t : t + 1]
            for name in ("embed", "prev_action", "is_first", "noise")
        }
        step = rssm.observe(**over_time, deter=deter, stoch=stoch)
        deter, stoch = step.deter[:, 0], step.stoch[:, 0]
        torch.testing.assert_close(deter, whole.deter[:, t], rtol=1e-4, atol=1e-5)
        assert torch.equal(stoch, whole.stoch[:, t])


def test_is_first_forgets_state_and_action(config: DreamerConfig) -> None:
    rssm, inputs = rssm_and_inputs(config)
    inputs["is_first"][:, 2] = True
    expected = rssm.observe(**inputs)
    changed = {name: value.clone() for name, value in inputs.items()}
    changed["deter"] += 1.0
    changed["embed"][:, :2] += 1.0
    changed["prev_action"][:, :3] += 0.5  # the action that led to the first step as well
    found = rssm.observe(**changed)
    assert torch.equal(found.deter[:, 2:], expected.deter[:, 2:])
    assert not torch.equal(found.deter[:, :2], expected.deter[:, :2])


def test_the_future_does_not_reach_the_past(config: DreamerConfig) -> None:
    rssm, inputs = rssm_and_inputs(config)
    expected = rssm.observe(**inputs)
    for name in ("embed", "prev_action"):
        changed = {key: value.clone() for key, value in inputs.items()}
        changed[name][:, 4:] += 1.0
        found = rssm.observe(**changed)
        assert torch.equal(found.dist[:, :4], expected.dist[:, :4]), name
        assert not torch.equal(found.dist[:, 4:], expected.dist[:, 4:]), name


def test_the_observation_reaches_the_posterior_of_its_step_but_not_its_deter(
    config: DreamerConfig,
) -> None:
    rssm, inputs = rssm_and_inputs(config)
    expected = rssm.observe(**inputs)
    changed = inputs | {"embed": inputs["embed"].clone()}
    changed["embed"][:, 4] += 1.0
    found = rssm.observe(**changed)
    assert torch.equal(found.deter[:, 4], expected.deter[:, 4])
    assert not torch.equal(found.dist[:, 4], expected.dist[:, 4])


def test_imagining_follows_the_prior(config: DreamerConfig) -> None:
    rssm, inputs = rssm_and_inputs(config)
    action, noise = inputs["prev_action"][:, 0], inputs["noise"][:, 0]
    deter, stoch = rssm.imagine(inputs["deter"], inputs["stoch"], action, noise)
    observed = rssm.observe(
        **{name: inputs[name][:, :1] for name in ("embed", "prev_action", "is_first", "noise")},
        deter=inputs["deter"],
        stoch=inputs["stoch"],
    )
    torch.testing.assert_close(deter, observed.deter[:, 0], rtol=1e-4, atol=1e-5)
    assert torch.equal(stoch, rssm.latent.sample(rssm.prior_dist(deter), noise))


def test_gradient_flows_back_through_time_into_every_parameter(config: DreamerConfig) -> None:
    rssm, inputs = rssm_and_inputs(config)
    inputs["embed"].requires_grad_()
    posterior = rssm.observe(**inputs)
    prior = rssm.prior_dist(posterior.deter)
    loss = F.mse_loss(posterior.feat[:, -1], torch.randn(3, 32)) + prior.square().sum()
    loss.backward()
    assert inputs["embed"].grad is not None
    assert (inputs["embed"].grad[:, 0].abs().sum(-1) > 0).all()
    assert all(param.grad is not None and param.grad.abs().sum() > 0 for param in rssm.parameters())


def test_gaussian_latents_fit_into_the_same_model(config: DreamerConfig) -> None:
    gaussian = replace(config, latent="gaussian")
    rssm, inputs = rssm_and_inputs(gaussian)
    inputs["noise"] = torch.randn_like(inputs["noise"])
    posterior: Posterior = rssm.observe(**inputs)
    assert posterior.stoch.shape == (3, 6, gaussian.net.stoch)
    assert posterior.dist.shape == (3, 6, 2, gaussian.net.stoch)
