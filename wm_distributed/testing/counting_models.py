"""Policy and trainable of the counting family."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces as gym_spaces
from torch import Tensor, nn

from wm_distributed.api import EnvSpaces, Report, TrainContext, TrainOutput
from wm_distributed.errors import CheckpointError
from wm_distributed.micro_batches import join_outputs
from wm_distributed.testing.counting_env import COUNT_LATENT, check_counting_columns
from wm_distributed.testing.counting_family import CountingConfig
from wm_distributed.types import REWARD, ActMode, Array, Columns, EnvStep, TensorBatch, Weights
from wm_distributed.weights import pack_weights, unpack_weights


class CountingPolicy:
    """Acts at random; its recurrent state and latent count the steps since ``is_first``."""

    def __init__(self, spaces: EnvSpaces, seed: int) -> None:
        """Args: the environment's spaces and the seed of the random actions."""
        self.version = 0
        self.model = _linear(spaces)
        self._action = spaces.action
        self._rng = np.random.default_rng(seed)

    def initial_state(self, num_envs: int) -> Array:
        return np.zeros(num_envs, np.float32)

    def act(self, state: Array, step: EnvStep, mode: ActMode) -> tuple[Array, Array, Columns]:
        count = np.where(step.is_first, 0, state + 1).astype(np.float32)  # (N,)
        extras = {COUNT_LATENT: count[:, None]}
        if isinstance(self._action, gym_spaces.Discrete):
            action = self._rng.integers(int(self._action.n), size=len(count), dtype=np.int32)
            return action, count, extras
        shape = (len(count), *self._action.shape)
        return self._rng.uniform(-1, 1, shape).astype(np.float32), count, extras

    def load_weights(self, weights: Weights) -> None:
        unpack_weights(weights.buffer, self.model.state_dict())
        self.version = weights.version


class CountingTrainable:
    """Fits the reward linearly to the observation, by gradient descent."""

    def __init__(self, config: CountingConfig, spaces: EnvSpaces, context: TrainContext) -> None:
        """Begins from parameters that follow from the context's seed."""
        self._config = config
        self._context = context
        self.model = _linear(spaces)
        generator = torch.Generator().manual_seed(context.seed)
        with torch.no_grad():
            self.model.weight.copy_(torch.randn(self.model.weight.shape, generator=generator))
            self.model.bias.zero_()
        self.model.to(context.device)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=config.learning_rate)

    def init_train(self, phase: str, batch_size: int) -> int:
        """The carry: train steps in this phase's turn."""
        return 0

    def train_step(self, phase: str, carry: int, batch: TensorBatch) -> tuple[int, TrainOutput]:
        if self._config.check_data:
            arrays = {name: column.cpu().numpy() for name, column in batch.columns.items()}
            for row in range(len(arrays[REWARD])):
                check_counting_columns({name: array[row] for name, array in arrays.items()})
        self.optimizer.zero_grad()
        parts = batch.split(self._context.micro_batches)
        output = join_outputs([self._accumulate(part) for part in parts])
        for parameter in self.model.parameters():
            assert parameter.grad is not None
            self._context.collective.mean_(parameter.grad)
        self.optimizer.step()
        return carry + 1, output

    def _accumulate(self, batch: TensorBatch) -> TrainOutput:
        """Adds a part's share of the batch's gradient."""
        loss = self._loss(batch)  # (B,)
        (loss.mean() / self._context.micro_batches).backward()  # type: ignore[no-untyped-call]
        refreshed = {
            name: column[:, batch.context :]
            for name, column in batch.columns.items()
            if name == COUNT_LATENT
        }
        return TrainOutput({"loss": loss.detach().mean()}, refreshed, loss.detach())

    def report(self, phase: str, batch: TensorBatch) -> Report:
        with torch.no_grad():
            loss = self._loss(batch).mean().item()
        picture = np.full((8, 8, 3), 128, np.uint8)
        return Report({"loss": loss}, {"picture": picture}, {"video": np.stack([picture] * 4)})

    def policy_weights(self) -> Array:
        return pack_weights(self.model.state_dict())

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        try:
            self.model.load_state_dict(state["model"])
        except RuntimeError as error:
            raise CheckpointError(f"counting family: {error}") from error
        self.optimizer.load_state_dict(state["optimizer"])

    def _loss(self, batch: TensorBatch) -> Tensor:
        """Mean squared error of each sequence, ``(B,)``, over its trained steps."""
        obs = batch.obs()
        parts = [obs[key].float().flatten(2) for key in sorted(obs)]
        features = torch.tanh(torch.cat(parts, -1)[:, batch.context :])  # (B, T, D)
        predicted = self.model(features).squeeze(-1)  # (B, T)
        errors: Tensor = (predicted - batch.columns[REWARD][:, batch.context :]).square()
        return errors.mean(1)


def _linear(spaces: EnvSpaces) -> nn.Linear:
    return nn.Linear(sum(int(np.prod(space.shape)) for space in spaces.obs.values()), 1)
