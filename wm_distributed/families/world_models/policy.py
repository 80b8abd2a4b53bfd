"""Acts with V, M and C, on the CPU; explores with random actions while there is no C."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wm_distributed.api import EnvSpaces
from wm_distributed.errors import ConfigError
from wm_distributed.families.world_models.config import LOG_VAR, MEAN, WorldModelsConfig
from wm_distributed.families.world_models.memory import MemoryState
from wm_distributed.families.world_models.model import ActingModel
from wm_distributed.families.world_models.rows import fill_rows, round_up
from wm_distributed.families.world_models.vision import sample_latent, to_pixels
from wm_distributed.timing import WorkMeter
from wm_distributed.types import ActMode, Array, Columns, EnvStep, Weights
from wm_distributed.weights import unpack_weights


class PolicyState(NamedTuple):
    """What N environments carry from step to step; M's rows are N′, a multiple of ``ROWS``."""

    memory: MemoryState
    """``(N′, H)`` each."""
    held: Tensor
    """``(N, O)``, the outputs that exploration holds."""
    remaining: Tensor
    """``int64 (N,)``, for how many more steps."""


class WorldModelsPolicy:
    """One controller for all environments, or another one for each (see :meth:`assign`).

    In training, before a controller has been published, it explores: random outputs, each held for
    a random time, as the authors' code collects in Doom. V does not run then, and the latent
    columns are zeros, to be filled in once V has been trained.
    """

    def __init__(self, config: WorldModelsConfig, env_spaces: EnvSpaces, seed: int) -> None:
        """Builds the networks with the random weights that version 0 stands for.

        Raises:
            ConfigError: They cannot serve the spaces.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._model = ActingModel(config, env_spaces).requires_grad_(False)
        self._hold = config.controller.hold
        self._generator = torch.Generator().manual_seed(seed)
        self._assigned = torch.zeros(0, self.num_parameters)  # (N′ or more, P)
        self._rngs: dict[int, np.random.Generator] = {}
        self._meter = WorkMeter("vision", "controller", "memory")
        self.version = 0

    @property
    def num_parameters(self) -> int:
        """Size of a controller's parameter vector."""
        return self._model.controller.num_parameters

    def assign(self, env: int, parameters: Array, seed: int) -> None:
        """Gives one environment a controller, from its next episode's first step on.

        Once this has been called, every environment that acts needs one. The noise of z then comes
        from the environment's own seed, so that an episode does not depend on its neighbours.

        Args:
            env: Index of the environment.
            parameters: ``(num_parameters,)``.
            seed: Of the noise.

        Raises:
            ConfigError: The vector has another size.
        """
        tensor = self._model.controller.to_tensor(parameters)
        if env >= len(self._assigned):
            self._assigned = fill_rows(self._assigned, round_up(env + 1))
        self._assigned[env] = tensor
        self._rngs[env] = np.random.default_rng(seed)

    def initial_state(self, num_envs: int) -> PolicyState:
        return PolicyState(
            self._model.memory.initial_state(round_up(num_envs)),
            torch.zeros(num_envs, self._model.actions.num_outputs),
            torch.zeros(num_envs, dtype=torch.int64),
        )

    @torch.inference_mode()
    def act(
        self, state: PolicyState, step: EnvStep, mode: ActMode
    ) -> tuple[Array, PolicyState, Columns]:
        is_first = torch.from_numpy(step.is_first)
        has_controller = self._rngs or self._model.controller_parameters.any()
        if mode == "train" and not has_controller:
            return self._explore(state, is_first)
        return self._control(state, step, is_first)

    def _control(
        self, state: PolicyState, step: EnvStep, is_first: Tensor
    ) -> tuple[Array, PolicyState, Columns]:
        model, num_envs = self._model, len(is_first)
        images = torch.from_numpy(np.ascontiguousarray(step.obs[model.image_key]))
        with self._meter.measure("vision"):
            mean, log_var = model.encoder(to_pixels(images))
        with self._meter.measure("controller"):
            parts = (mean, log_var, self._noise(num_envs))
            filled = [fill_rows(part, round_up(num_envs)) for part in parts]
            latent, is_first = sample_latent(*filled), fill_rows(is_first, round_up(num_envs))
            memory = state.memory.reset(is_first)
            action = model.actions.to_env(self._outputs(model.controller.features(latent, memory)))
        with self._meter.measure("memory"):
            inputs = model.memory.inputs(latent, model.actions.to_input(action), is_first)
            state = state._replace(memory=model.memory.step(inputs, memory))
        return action[:num_envs].numpy(), state, _columns(mean, log_var)

    def _explore(self, state: PolicyState, is_first: Tensor) -> tuple[Array, PolicyState, Columns]:
        num_envs, generator = len(is_first), self._generator
        change = is_first | (state.remaining == 0)
        fresh = torch.randn(state.held.shape, generator=generator)
        times = torch.randint(1, self._hold + 1, (num_envs,), generator=generator)
        held = torch.where(change.unsqueeze(-1), fresh, state.held)
        remaining = torch.where(change, times, state.remaining) - 1
        action = self._model.actions.to_env(held)
        zeros = torch.zeros(num_envs, self._model.latent_size)
        return action.numpy(), PolicyState(state.memory, held, remaining), _columns(zeros, zeros)

    def _outputs(self, features: Tensor) -> Tensor:
        """C's outputs ``(N′, O)`` for features ``(N′, F)``."""
        controller = self._model.controller
        if self._rngs:
            return controller(self._assigned[: len(features)], features.unsqueeze(1)).squeeze(1)
        parameters = self._model.controller_parameters
        return controller(parameters.unsqueeze(0), features.unsqueeze(0)).squeeze(0)

    def _noise(self, num_envs: int) -> Tensor:
        """``(N, Z)``, normal."""
        size = self._model.latent_size
        if not self._rngs:
            return torch.randn(num_envs, size, generator=self._generator)
        missing = set(range(num_envs)) - self._rngs.keys()
        if missing:
            raise ConfigError(f"no controller was assigned to the environments {sorted(missing)}")
        rows = [self._rngs[env].standard_normal(size, np.float32) for env in range(num_envs)]
        return torch.from_numpy(np.stack(rows))

    def stats(self) -> dict[str, float]:
        """Shares of the time since the last call that V, C and M take, under ``policy/``."""
        _, shares = self._meter.read()
        return {f"policy/{name}_share": share for name, share in shares.items()}

    def load_weights(self, weights: Weights) -> None:
        unpack_weights(weights.buffer, self._model.state_dict())
        self.version = weights.version


def _columns(mean: Tensor, log_var: Tensor) -> Columns:
    return {
        MEAN: mean.to(torch.float16).numpy(),
        LOG_VAR: log_var.to(torch.float16).numpy(),
    }
