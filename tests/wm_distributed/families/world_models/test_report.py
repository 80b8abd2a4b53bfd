import pytest
import torch

from wm_distributed.api import EnvSpaces, TrainContext
from wm_distributed.families.world_models.config import WorldModelsConfig
from wm_distributed.families.world_models.dream import Dream, DreamState
from wm_distributed.families.world_models.trainable import WorldModelsTrainable


@pytest.fixture
def trainable(
    small: WorldModelsConfig, car_spaces: EnvSpaces, context: TrainContext
) -> WorldModelsTrainable:
    return WorldModelsTrainable(small, car_spaces, context)


def test_vision_reports_frames_above_their_reconstructions(
    trainable: WorldModelsTrainable, make_batch
) -> None:
    batch = make_batch(10, 1)
    report = trainable.report("vision", batch)
    picture = report.images["reconstruction"]
    assert picture.shape == (128, 8 * 64, 3)
    assert (picture[:64, 64:128] == batch.columns["obs/image"][1, 0].numpy()).all()
    pixels = batch.columns["obs/image"][:, 0].permute(0, 3, 1, 2) / 255.0
    with torch.no_grad():
        mean, _ = trainable.model.acting.encoder(pixels)
        error = (trainable.model.decoder(mean) - pixels).square().mean()
    assert report.scalars["vision_psnr_db"] == pytest.approx(-10 * error.log10().item(), rel=1e-4)


def test_latents_that_carry_nothing_are_not_active(
    trainable: WorldModelsTrainable, make_batch
) -> None:
    encoder = trainable.model.acting.encoder
    with torch.no_grad():
        for layer in (encoder.mean, encoder.log_var):
            layer.weight.zero_()
            layer.bias.zero_()
        encoder.mean.bias[2] = 1.0
    scalars = trainable.report("vision", make_batch(4, 1)).scalars
    assert scalars["vision_active_latents"] == 1
    assert scalars["vision_kl"] == pytest.approx(0.5)


@pytest.mark.parametrize("images", [True, False])
def test_memory_reports_dreams_below_reality(
    trainable: WorldModelsTrainable, make_batch, images: bool
) -> None:
    batch = make_batch(3, 12, ((1, 6),), context=1, images=images)
    report = trainable.report("memory", batch)
    video = report.videos["from above: reality, dream"]
    assert video.shape == (12, 128, 3 * 64, 3)
    assert (video[:5, :64] == video[:5, 64:]).all()  # the seen steps are reality itself
    assert (video[5:, :64] != video[5:, 64:]).any()
    if images:
        assert (video[7, :64, 64:128] == batch.columns["obs/image"][1, 7].numpy()).all()
    assert {"dream_psnr_db_horizon_1", "dream_psnr_db_copy_5"} <= report.scalars.keys()
    assert "dream_psnr_db_horizon_15" not in report.scalars


def test_a_dream_gets_the_action_that_led_to_each_step(
    trainable: WorldModelsTrainable, make_batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[torch.Tensor] = []
    original = Dream.step

    def recorded(self: Dream, state: DreamState, action: torch.Tensor):
        taken.append(action)
        return original(self, state, action)

    monkeypatch.setattr(Dream, "step", recorded)
    batch = make_batch(2, 9)
    trainable.report("memory", batch)
    assert torch.equal(torch.stack(taken, dim=1), batch.columns["action"][:, 4:8])


def test_returns_end_with_the_episode_that_was_seen(
    trainable: WorldModelsTrainable, make_batch
) -> None:
    batch = make_batch(1, 9, ((0, 7),))
    expected = batch.columns["reward"][0, 5:7].sum().item()
    scalars = trainable.report("memory", batch).scalars
    assert scalars["dream_return_real"] == pytest.approx(expected, rel=1e-4)


def test_reports_change_nothing_and_repeat(trainable: WorldModelsTrainable, make_batch) -> None:
    batch = make_batch(2, 8)
    before = {name: t.clone() for name, t in trainable.model.state_dict().items()}
    first, second = (trainable.report("memory", batch).scalars for _ in range(2))
    assert first == second
    after = trainable.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
