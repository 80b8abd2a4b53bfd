"""Figures of the reports: which there are, and what the controls hold them against."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from wm_distributed.families.iris.config import TOKENIZER, WORLD_MODEL, IrisConfig
from wm_distributed.families.iris.trainable import IrisTrainable
from wm_distributed.types import TensorBatch

Build = Callable[..., IrisTrainable]
MakeBatch = Callable[..., TensorBatch]


@pytest.mark.parametrize("phase", [TOKENIZER, WORLD_MODEL])
def test_without_identical_patches_there_is_no_share_of_their_tokens(
    phase: str, config: IrisConfig, build: Build, make_batch: MakeBatch
) -> None:
    trainable, batch = build(config), make_batch(config, phase)
    name = f"{phase}_identical_share"
    assert name not in trainable.report(phase, batch).scalars  # of random frames
    batch.columns["obs/image"].zero_()
    assert trainable.report(phase, batch).scalars[name] == 1.0


def test_the_share_is_none_of_the_figures_of_a_train_step(
    config: IrisConfig, build: Build, make_batch: MakeBatch
) -> None:
    """It would be missing in some steps, and only the device knows in which."""
    _, output = build(config).train_step(TOKENIZER, None, make_batch(config, TOKENIZER))
    assert not [name for name in output.metrics if "identical" in name]
    assert all(torch.as_tensor(value).isfinite() for value in output.metrics.values())
