"""The learned world model as an environment."""

from __future__ import annotations

import torch
from torch import Tensor

from wm_distributed.api import SimulatedStep
from wm_distributed.families.iris.imagination import Imagination
from wm_distributed.families.iris.model import IrisModel
from wm_distributed.families.iris.steps import to_pixels
from wm_distributed.types import ACTION, IS_FIRST, TensorBatch


class IrisSimulator:
    """Samples frames; rewards are expected signs, and ends come as chances."""

    def __init__(self, model: IrisModel, seed: int = 0) -> None:
        """Shares the model's parameters; random numbers come from ``seed``."""
        self._model = model
        self._generator = torch.Generator(model.value.weight.device).manual_seed(seed)

    @torch.no_grad()
    def start(self, context: TensorBatch) -> Imagination:
        acting, columns = self._model.acting, context.columns
        newest = self._model.world_model.config.refill_blocks
        images = context.obs()[acting.image_key][:, -newest:]
        return Imagination(
            self._model.world_model,
            acting.tokenizer.encode(to_pixels(images)),
            columns[ACTION][:, -images.shape[1] : -1].long(),
            columns[IS_FIRST][:, -images.shape[1] :],
            self._generator,
        )

    @torch.no_grad()
    def step(self, state: Imagination, action: Tensor) -> tuple[Imagination, SimulatedStep]:
        prediction = state.step(action.long())
        frame = self._model.acting.tokenizer.decode(prediction.tokens)
        return state, SimulatedStep(
            obs={self._model.acting.image_key: frame},
            reward=prediction.expected_reward(),
            cont=torch.sigmoid(-prediction.end),
        )
