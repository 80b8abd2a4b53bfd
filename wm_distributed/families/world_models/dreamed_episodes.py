"""Many dreams side by side, each for another controller: what a population search evaluates in.

::

    start(slot, seed) ─→ z of a stored first frame, which the seed picks
    step(action) ─→ M, all slots at once ─→ EnvStep: what C sees, the reward, the end

Source: Ha & Schmidhuber, "World Models" (2018), section 5.
"""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from wm_distributed.api import EnvSpaces
from wm_distributed.errors import ConfigError
from wm_distributed.families.world_models.config import WorldModelsConfig
from wm_distributed.families.world_models.dream import Dream, DreamNoise, DreamState
from wm_distributed.families.world_models.model import ActingModel
from wm_distributed.families.world_models.rows import fill_rows, round_up
from wm_distributed.families.world_models.vision import sample_latent, to_pixels
from wm_distributed.types import OBS_PREFIX, ActMode, Array, Columns, EnvStep, Weights
from wm_distributed.weights import unpack_weights

_FEATURES = "features"
_NOISE_BLOCK = 64
"""Steps for which an episode's noise is drawn at once."""


class DreamedEpisodes:
    """A :class:`~wm_distributed.candidates.SeededEpisodes` of one M.

    All slots are computed in every step, also the empty ones: then the sizes of all products are
    always the same, and what happens in a slot depends on its seed and actions to the last bit.
    """

    def __init__(
        self,
        model: ActingModel,
        config: WorldModelsConfig,
        env_spaces: EnvSpaces,
        images: Array,
        num_slots: int,
    ) -> None:
        """Shares the model's parameters; no dream is under way.

        Args:
            model: V's encoder and M, trained.
            config: How M is used as an environment.
            env_spaces: Of the environment that M has learned.
            images: Frames with which episodes begin, ``uint8 (S, H, W, 3)``.
            num_slots: N.
        """
        self.num_slots = num_slots
        features = spaces.Box(-np.inf, np.inf, (model.controller.num_features,), np.float32)
        self.spaces = EnvSpaces({_FEATURES: features}, env_spaces.action)
        self._model = model
        self._dream = Dream(model, config)
        self._max_steps = config.dream.max_steps
        with torch.inference_mode():
            self._starts = model.encoder(to_pixels(torch.from_numpy(images)))  # (S, Z) each
        self._rows = rows = round_up(num_slots)
        self._state = DreamState(
            torch.zeros(rows, model.latent_size),
            model.memory.initial_state(rows),
            torch.ones(rows, dtype=torch.bool),
        )
        self._noise = _Noise(rows, model.latent_size)
        self._first: dict[int, Tensor] = {}  # z of the dreams that the next step begins
        self._dreaming = np.zeros(rows, np.bool_)
        self._length = np.zeros(rows, np.int64)

    @torch.inference_mode()
    def start(self, slot: int, seed: int) -> None:
        self.stop(slot)
        rng = self._noise.seed(slot, seed)
        means, log_vars = self._starts
        number = int(rng.integers(len(means)))
        noise = _normal(rng, means.shape[1:])
        self._first[slot] = sample_latent(means[number], log_vars[number], noise)

    def stop(self, slot: int) -> None:
        self._dreaming[slot] = False
        self._first.pop(slot, None)

    @torch.inference_mode()
    def step(self, action: Array) -> EnvStep:
        dreaming = self._dreaming.copy()
        noise = self._noise.next(dreaming, self._length)
        taken = fill_rows(torch.from_numpy(action), self._rows)
        self._state, reward, ended = self._dream.advance(self._state, taken, noise)
        self._begin()
        self._length[dreaming] += 1
        is_terminal = ended.numpy() & dreaming
        is_last = is_terminal | (dreaming & (self._length >= self._max_steps))
        features = self._model.controller.features(self._state.latent, self._state.memory)
        features[torch.from_numpy(~self._dreaming)] = 0.0
        self._dreaming[is_last] = False
        some = slice(self.num_slots)
        return EnvStep(
            {_FEATURES: features[some].numpy()},
            np.where(dreaming, reward.numpy(), np.float32(0.0))[some],
            is_first=~dreaming[some],
            is_last=is_last[some],
            is_terminal=is_terminal[some],
        )

    def close(self) -> None:
        for slot in range(self.num_slots):
            self.stop(slot)

    def _begin(self) -> None:
        """Puts the dreams that begin in their slots."""
        for slot, latent in self._first.items():
            self._state.latent[slot] = latent
            self._state.memory.hidden[slot] = 0.0
            self._state.memory.cell[slot] = 0.0
            self._state.is_first[slot] = True
            self._dreaming[slot], self._length[slot] = True, 0
        self._first.clear()


class DreamController:
    """A :class:`~wm_distributed.candidates.CandidateActor` for :class:`DreamedEpisodes`."""

    def __init__(self, model: ActingModel, num_slots: int) -> None:
        """Takes the shape of C, and the actions, from the model."""
        self._model = model
        self._parameters = torch.zeros(round_up(num_slots), self.num_parameters)

    @property
    def num_parameters(self) -> int:
        """Size of a controller's parameter vector."""
        return self._model.controller.num_parameters

    def assign(self, env: int, parameters: Array, seed: int) -> None:
        """Gives one slot a controller; nothing in it is random.

        Raises:
            ConfigError: The vector has another size.
        """
        self._parameters[env] = self._model.controller.to_tensor(parameters)

    def initial_state(self, num_envs: int) -> None:
        """None: the dream remembers."""

    @torch.inference_mode()
    def act(self, state: None, step: EnvStep, mode: ActMode) -> tuple[Array, None, Columns]:
        features = torch.from_numpy(step.obs[_FEATURES])
        filled = fill_rows(features, len(self._parameters)).unsqueeze(1)  # (N′, 1, F)
        outputs = self._model.controller(self._parameters, filled).squeeze(1)
        return self._model.actions.to_env(outputs)[: len(features)].numpy(), None, {}


class _Noise:
    """Random numbers that depend on the seed of an episode and on its step alone."""

    def __init__(self, num_rows: int, latent_size: int) -> None:
        """Nothing is drawn yet."""
        shape = (num_rows, _NOISE_BLOCK)
        self._rngs: dict[int, np.random.Generator] = {}
        self._component = torch.zeros(*shape, latent_size)
        self._normal = torch.zeros(*shape, latent_size)
        self._end = torch.zeros(shape)
        self._row = torch.arange(num_rows)

    def seed(self, row: int, seed: int) -> np.random.Generator:
        """Begins an episode; what is drawn for its start comes from the result."""
        rng = self._rngs[row] = np.random.default_rng(seed)
        return rng

    def next(self, running: Array, lengths: Array) -> DreamNoise:
        """Noise ``(rows, …)`` for the next step of the rows that run; any for the others."""
        place = lengths % _NOISE_BLOCK
        for row in np.flatnonzero(running & (place == 0)):
            self._draw(int(row))
        at = (self._row, torch.from_numpy(place))
        return DreamNoise(self._component[at], self._normal[at], self._end[at])

    def _draw(self, row: int) -> None:
        rng, shape = self._rngs[row], self._component.shape[1:]
        self._component[row] = torch.from_numpy(rng.random(shape, np.float32))
        self._normal[row] = _normal(rng, shape)
        self._end[row] = torch.from_numpy(rng.random(_NOISE_BLOCK, np.float32))


def build_dream(
    config: WorldModelsConfig,
    env_spaces: EnvSpaces,
    weights: Weights | None,
    starts: Columns,
    num_episodes: int,
) -> tuple[DreamedEpisodes, DreamController]:
    """Dreams and who acts in them; see :class:`~wm_distributed.family.FamilySpec`.

    Raises:
        ConfigError: M does not learn rewards, and no other is set.
    """
    if config.dream.reward is None and config.memory.reward_scale == 0:
        raise ConfigError(
            "candidates are to be evaluated in the dream, but M learns no rewards "
            "(model.memory.reward_scale 0): set it above 0, or set model.dream.reward to what each "
            "dreamed step is worth"
        )
    model = ActingModel(config, env_spaces).requires_grad_(False)
    if weights is not None:
        unpack_weights(weights.buffer, model.state_dict())
    images = starts[OBS_PREFIX + model.image_key]
    dreams = DreamedEpisodes(model, config, env_spaces, images, num_episodes)
    return dreams, DreamController(model, num_episodes)


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(rng.standard_normal(shape, np.float32))
