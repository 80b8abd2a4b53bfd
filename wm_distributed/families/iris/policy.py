"""Acts on reconstructed frames, on the CPU."""

from __future__ import annotations

import numpy as np
import torch

from wm_distributed.api import EnvSpaces
from wm_distributed.families.iris.actor_critic import ActorState
from wm_distributed.families.iris.config import IrisConfig
from wm_distributed.families.iris.model import ActingModel
from wm_distributed.families.iris.steps import to_pixels
from wm_distributed.ops.categorical import sample_index
from wm_distributed.types import ActMode, Array, Columns, EnvStep, Weights
from wm_distributed.weights import unpack_weights


class IrisPolicy:
    """Samples from the actor; in training, a small share of actions is random.

    The actor sees each frame through the tokenizer, as it does in imagination, and remembers the
    frames of an episode: its state begins anew wherever ``is_first``, and nowhere else.
    """

    def __init__(self, config: IrisConfig, env_spaces: EnvSpaces, seed: int) -> None:
        """Builds the networks with the random weights that version 0 stands for.

        Raises:
            ConfigError: They cannot serve the spaces.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._model = ActingModel(config, env_spaces).requires_grad_(False).eval()
        self._config = config.actor_critic
        self._generator = torch.Generator().manual_seed(seed)
        self.version = 0

    def initial_state(self, num_envs: int) -> ActorState:
        return self._model.actor.initial_state(num_envs)

    @torch.inference_mode()
    def act(
        self, state: ActorState, step: EnvStep, mode: ActMode
    ) -> tuple[Array, ActorState, Columns]:
        model = self._model
        image = torch.from_numpy(np.ascontiguousarray(step.obs[model.image_key]))
        seen = model.tokenizer.decode(model.tokenizer.encode(to_pixels(image)))
        state = state.reset(torch.from_numpy(step.is_first))
        state = model.actor.remember(model.actor.features(seen), state)
        logits = model.actor.policy(state.hidden)
        if mode == "eval":
            logits = logits / self._config.eval_temperature
        action = sample_index(logits, self._generator)
        if mode == "train":
            chance = torch.rand(len(action), generator=self._generator)
            other = torch.randint(model.num_actions, action.shape, generator=self._generator)
            action = torch.where(chance < self._config.epsilon, other, action)
        return action.to(torch.int32).numpy(), state, {}

    def load_weights(self, weights: Weights) -> None:
        unpack_weights(weights.buffer, self._model.state_dict())
        self.version = weights.version
