from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from wm_distributed.api import EnvSpaces, TrainContext
from wm_distributed.families.dreamer.config import DreamerConfig
from wm_distributed.families.dreamer.model import DreamerModel
from wm_distributed.families.dreamer.report import _errors, _OpenLoop, open_loop_report
from wm_distributed.families.dreamer.trainable import DreamerTrainable
from wm_distributed.types import TensorBatch

IMAGES = EnvSpaces({"image": spaces.Box(0, 255, (64, 64, 3), np.uint8)}, spaces.Discrete(2))


def image_batch(config: DreamerConfig, make_vector_batch: TensorBatch) -> TensorBatch:
    columns = dict(make_vector_batch.columns)
    shape = columns.pop("obs/state").shape[:2]
    columns["obs/image"] = torch.randint(0, 256, (*shape, 64, 64, 3), dtype=torch.uint8)
    return TensorBatch(columns, 1)


def test_a_video_shows_reality_above_imagination_above_their_difference(
    config: DreamerConfig, batch: TensorBatch, context: TrainContext
) -> None:
    images = image_batch(config, batch)
    trainable = DreamerTrainable(config, IMAGES, context)
    videos = trainable.report("agent", images).videos
    video = videos["image, from above: reality, imagination, difference"]
    assert video.shape == (6, 3 * 64, 3 * 64, 3)
    real = images.columns["obs/image"][:, 1:].numpy()
    for sequence in range(3):
        across = slice(64 * sequence, 64 * sequence + 64)
        assert np.array_equal(video[:, :64, across], real[sequence])
    imagined, difference = video[:, 64:128, :64].astype(int), video[:, 128:, :64].astype(int)
    assert np.abs((imagined - real[0].astype(int) + 255) / 2 - difference).max() <= 1.0


def test_the_unseen_observations_do_not_reach_the_prediction(
    config: DreamerConfig, batch: TensorBatch, env_spaces: EnvSpaces, context: TrainContext
) -> None:
    trainable = DreamerTrainable(config, env_spaces, context)
    before = trainable.report("agent", batch).series["open_loop_state"]
    batch.columns["obs/state"][:, -1] += 1.0  # the sixth step, and five are seen
    after = trainable.report("agent", batch).series["open_loop_state"]
    assert np.array_equal(before[0], after[0])
    assert not np.array_equal(before[1], after[1])
    batch.columns["obs/state"][:, -2] += 1.0
    seen = trainable.report("agent", batch).series["open_loop_state"]
    assert not np.array_equal(before[0][-1], seen[0][-1])


def open_loop(predicted: torch.Tensor, true: torch.Tensor, valid: torch.Tensor) -> _OpenLoop:
    return _OpenLoop(2, {"x": predicted}, {"x": true}, torch.zeros(true.shape[:2]), valid)


def test_errors_equal_hand_worked_numbers_by_horizon() -> None:
    true = torch.tensor([[0.0, 1.0, 3.0, 4.0, 5.0, 6.0, 7.0]]).unsqueeze(-1)
    loop = open_loop(true + 0.5, true, torch.ones(1, 5, dtype=torch.bool))
    assert _errors(loop, "x", is_image=False) == {
        "x_mse_posterior": 0.25,
        "x_mse_horizon_1": 0.25,
        "x_mse_copy_1": 4.0,
        "x_mse_horizon_5": 0.25,
        "x_mse_copy_5": 36.0,
    }
    image = _errors(open_loop(true + 0.1, true, loop.valid), "x", is_image=True)
    assert image["x_psnr_db_horizon_1"].item() == pytest.approx(20.0, abs=1e-3)


def test_steps_of_the_next_episode_do_not_count() -> None:
    true = torch.zeros(2, 4, 1)
    predicted = true.clone()
    predicted[0, 2] = 9.0
    valid = torch.tensor([[False, False], [True, True]])
    figures = _errors(open_loop(predicted, true, valid), "x", is_image=False)
    assert figures["x_mse_horizon_1"] == 0.0


def test_a_report_compares_imagined_with_real_returns(
    config: DreamerConfig, batch: TensorBatch, env_spaces: EnvSpaces
) -> None:
    scalars = open_loop_report(DreamerModel(config, env_spaces), config, batch).scalars
    assert scalars["open_loop_return_imagined"] == 0.0  # a new reward head
    real = batch.columns["reward"][:, 6:].sum(1)
    assert scalars["open_loop_return_real"] == pytest.approx(real.mean().item(), rel=1e-4)
    assert scalars["open_loop_return_error"] == pytest.approx(real.abs().mean().item(), rel=1e-4)
