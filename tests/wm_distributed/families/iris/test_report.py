"""Figures of the reports: which there are, and what the controls hold them against."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from wm_distributed.families.iris import report
from wm_distributed.families.iris.config import TOKENIZER, WORLD_MODEL, IrisConfig
from wm_distributed.families.iris.model import IrisModel
from wm_distributed.families.iris.report import wrong_actions
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


def test_one_frame_alone_is_not_compared_with_itself(
    config: IrisConfig, build: Build, make_batch: MakeBatch
) -> None:
    scalars = build(config).report(TOKENIZER, make_batch(config, TOKENIZER, 1)).scalars
    assert "tokenizer_identical_share" not in scalars


def test_wrong_actions_are_those_of_another_sequence_or_of_another_time() -> None:
    rows = torch.tensor([[0, 1, 2], [1, 2, 0]])
    assert wrong_actions(rows).tolist() == [[1, 2, 0], [0, 1, 2]]
    assert wrong_actions(torch.tensor([[0, 1, 2, 3, 4]])).tolist() == [[3, 4, 0, 1, 2]]


@pytest.mark.parametrize("rows", [1, 2])
def test_the_control_of_the_open_loop_gets_other_actions(
    rows: int,
    config: IrisConfig,
    build: Build,
    make_batch: MakeBatch,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainable, batch = build(config), make_batch(config, WORLD_MODEL, rows)
    action = batch.columns["action"]
    action.copy_(torch.arange(action.numel()).view_as(action) % 3)
    given = []
    real_open_loop = report.open_loop

    def listen(model: IrisModel, tokens: Tensor, is_first: Tensor, actions: Tensor, seen: int):  # type: ignore[no-untyped-def]
        given.append(actions)
        return real_open_loop(model, tokens, is_first, actions, seen)

    monkeypatch.setattr(report, "open_loop", listen)
    scalars = trainable.report(WORLD_MODEL, batch).scalars
    real, control = given
    assert torch.equal(real, action.long())
    assert (control != real).any(dim=1).all()
    assert {f"world_model_psnr_db_{name}_1" for name in ("horizon", "shuffled", "copy")} <= {
        *scalars
    }


def test_where_all_actions_are_the_same_there_is_no_control(
    config: IrisConfig, build: Build, make_batch: MakeBatch
) -> None:
    batch = make_batch(config, WORLD_MODEL)
    batch.columns["action"].fill_(1)
    names = build(config).report(WORLD_MODEL, batch).scalars
    assert "world_model_psnr_db_copy_1" in names
    assert not [name for name in names if "shuffled" in name]
