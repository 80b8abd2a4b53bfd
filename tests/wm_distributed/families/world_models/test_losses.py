import dataclasses
import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import distributions as td
from torch import nn

from wm_distributed.api import EnvSpaces
from wm_distributed.families.world_models import losses
from wm_distributed.families.world_models.config import VisionConfig, WorldModelsConfig
from wm_distributed.families.world_models.model import ActingModel
from wm_distributed.types import TensorBatch


@pytest.fixture
def model(small: WorldModelsConfig, car_spaces: EnvSpaces) -> ActingModel:
    return ActingModel(small, car_spaces)


def stub_vision(mean: torch.Tensor, log_var: torch.Tensor, frames: torch.Tensor):
    acting = SimpleNamespace(encoder=lambda pixels: (mean, log_var))
    return SimpleNamespace(acting=acting, decoder=lambda latent: frames)


def test_kl_against_hand_worked_values() -> None:
    mean, log_var = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, math.log(4.0), 0.0])
    kl = losses.kl_to_standard_normal(mean, log_var)
    torch.testing.assert_close(kl, torch.tensor([0.5, 0.8068528, 0.0]))


def test_the_kl_floor_holds_for_each_frame_and_not_for_their_mean() -> None:
    mean = torch.zeros(2, 4)
    mean[1] = 4.0  # 8 nats each
    stub = stub_vision(mean, torch.zeros(2, 4), torch.zeros(2, 3, 64, 64))
    config = VisionConfig(latent_size=4, kl_floor=0.5)
    pixels = torch.zeros(2, 3, 64, 64)
    terms, metrics = losses.vision_losses(stub, config, pixels, torch.zeros(2, 4))
    assert terms["kl"].item() == pytest.approx((2.0 + 32.0) / 2)
    assert metrics["kl"].item() == pytest.approx((0.0 + 32.0) / 2)


def test_below_the_floor_the_kl_pushes_nothing() -> None:
    mean = torch.tensor([[0.1, 0.1], [3.0, 3.0]], requires_grad=True)
    stub = stub_vision(mean, torch.zeros(2, 2), torch.zeros(2, 3, 64, 64))
    config = VisionConfig(latent_size=2, kl_floor=0.5)
    terms, _ = losses.vision_losses(stub, config, torch.zeros(2, 3, 64, 64), torch.zeros(2, 2))
    terms["kl"].backward()
    assert mean.grad.tolist() == [[0.0, 0.0], [1.5, 1.5]]


def test_reconstruction_errors_are_summed_over_pixels_and_averaged_over_frames() -> None:
    frames = torch.zeros(2, 3, 64, 64)
    frames[1] = 0.5
    stub = stub_vision(torch.zeros(2, 4), torch.zeros(2, 4), frames)
    config = VisionConfig(latent_size=4)
    pixels = torch.zeros(2, 3, 64, 64)
    terms, _ = losses.vision_losses(stub, config, pixels, torch.zeros(2, 4))
    assert terms["reconstruction"].item() == pytest.approx((0.0 + 3 * 64 * 64 * 0.25) / 2)


def naive_memory_losses(
    model: ActingModel, config: WorldModelsConfig, batch: TensorBatch, noise: torch.Tensor
) -> dict[str, float]:
    """Follows each episode of each sequence alone, one step at a time, with torch's own parts."""
    memory, c = model.memory, batch.columns
    z = c["latent/mean"].float() + (c["latent/log_var"].float() / 2).exp() * noise
    found: dict[str, list[torch.Tensor]] = {"latent": [], "reward": [], "done": []}
    for row in range(len(z)):
        state = memory.initial_state(1)
        for t in range(z.shape[1] - 1):
            if c["is_first"][row, t]:
                state = memory.initial_state(1)
            inputs = torch.cat([z[row, t], c["action"][row, t]]).unsqueeze(0)
            state = memory.step(inputs, state)
            if c["is_first"][row, t + 1] or t + 1 < batch.context:
                continue
            logits, mean, log_std = memory.mixture(state.hidden).reshape(3, -1, 4)
            oracle = td.MixtureSameFamily(
                td.Categorical(logits=logits.T), td.Normal(mean.T, log_std.T.exp())
            )
            found["latent"].append(-oracle.log_prob(z[row, t + 1]).mean())
            error = (memory.reward(state.hidden)[0, 0] - c["reward"][row, t + 1]) ** 2
            found["reward"].append(config.memory.reward_scale * error)
            done = c["is_terminal"][row, t + 1].float()
            entropy = F.binary_cross_entropy_with_logits(memory.done(state.hidden)[0, 0], done)
            found["done"].append(entropy * (config.memory.done_weight if done else 1.0))
    return {name: torch.stack(values).mean().item() for name, values in found.items()}


@pytest.mark.parametrize("context", [1, 3])
def test_memory_losses_equal_a_loop_over_single_episodes(
    small: WorldModelsConfig, model: ActingModel, make_batch, context: int
) -> None:
    weighted = dataclasses.replace(small.memory, done_weight=10.0)
    config = dataclasses.replace(small, memory=weighted)
    starts = ((0, 0), (0, 4), (1, 2), (1, 7), (2, 8))
    batch = make_batch(3, 9, starts, context=context, images=False)
    noise = torch.randn(3, 9, 4)
    terms, metrics = losses.memory_losses(model, config.memory, batch, noise)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        naive_memory_losses(model, config, batch, noise), rel=1e-4
    )
    crossed = sum(step >= context for _, step in starts)
    predicted = 3 * (9 - context)
    assert metrics["predicted_share"].item() == pytest.approx(1 - crossed / predicted)


def test_nothing_of_one_episode_reaches_the_losses_of_the_next(
    small: WorldModelsConfig, model: ActingModel, make_batch
) -> None:
    batch = make_batch(1, 8, ((0, 4),), context=4, images=False)
    noise = torch.zeros(1, 8, 4)
    before, _ = losses.memory_losses(model, small.memory, batch, noise)
    for name in ("latent/mean", "latent/log_var", "action", "reward"):
        batch.columns[name][:, :4] += 1.0
    after, _ = losses.memory_losses(model, small.memory, batch, noise)
    assert after == before
    batch.columns["action"][:, 4] += 1.0  # the control: what the next episode does see
    changed, _ = losses.memory_losses(model, small.memory, batch, noise)
    assert changed["latent"] != before["latent"]


def test_a_batch_of_beginnings_alone_gives_a_loss_of_zero(
    small: WorldModelsConfig, model: ActingModel, make_batch
) -> None:
    batch = make_batch(2, 2, ((0, 1), (1, 1)), context=1, images=False)
    terms, _ = losses.memory_losses(model, small.memory, batch, torch.zeros(2, 2, 4))
    assert all(term.item() == 0.0 for term in terms.values())


def test_other_noise_draws_other_latents(
    small: WorldModelsConfig, model: ActingModel, make_batch
) -> None:
    batch = make_batch(2, 6, context=1, images=False)
    first, _ = losses.memory_losses(model, small.memory, batch, torch.zeros(2, 6, 4))
    second, _ = losses.memory_losses(model, small.memory, batch, torch.ones(2, 6, 4))
    assert first["latent"] != second["latent"]


def test_latents_are_those_stored_or_else_those_of_the_images(
    model: ActingModel, make_batch
) -> None:
    batch = make_batch(2, 3)
    mean, _ = losses.encoded(model, batch)
    assert torch.equal(mean, batch.columns["latent/mean"].float())
    mean, log_var = losses.encoded(model, make_batch(2, 3, latents=False))
    image = batch.columns["obs/image"][1, 2].float().permute(2, 0, 1).unsqueeze(0) / 255.0
    expected = model.encoder(image)
    torch.testing.assert_close((mean[1:, 2], log_var[1:, 2]), expected, rtol=1e-4, atol=1e-5)


def test_the_memory_loss_reaches_every_parameter_of_m_and_no_other(
    small: WorldModelsConfig, model: ActingModel, make_batch
) -> None:
    batch = make_batch(2, 6, ((0, 3),), context=1, latents=False)
    terms, _ = losses.memory_losses(model, small.memory, batch, torch.randn(2, 6, 4))
    torch.stack(list(terms.values())).sum().backward()
    assert all(has_gradient(param) for param in model.memory.parameters())
    assert not any(has_gradient(param) for param in model.encoder.parameters())


def has_gradient(param: nn.Parameter) -> bool:
    return param.grad is not None and bool(param.grad.abs().sum() > 0)
