"""Another small network in each environment, without torch: nothing is trained by gradients."""

from __future__ import annotations

import itertools
import math

import numpy as np
from gymnasium import spaces

from wm_distributed.api import EnvSpaces
from wm_distributed.errors import ConfigError
from wm_distributed.families.linear.config import LinearConfig
from wm_distributed.types import ActMode, Array, Columns, EnvStep, Weights


class LinearPolicy:
    """Actions from the observation alone; has no state and draws nothing at random.

    The parameter vector holds, for each layer, its biases and then its weights by output. A
    discrete action is that of the largest output, a continuous one is tanh of the outputs.
    """

    def __init__(self, config: LinearConfig, env_spaces: EnvSpaces) -> None:
        """Begins with all parameters zero in every environment."""
        self.version = 0
        self._keys = sorted(env_spaces.obs)
        self._image_keys = {key for key, space in env_spaces.obs.items() if space.dtype == np.uint8}
        self._discrete = isinstance(env_spaces.action, spaces.Discrete)
        self._action_shape: tuple[int, ...] = env_spaces.action.shape or ()
        inputs = sum(math.prod(space.shape) for space in env_spaces.obs.values())
        sizes = [inputs, *([config.hidden] if config.hidden else []), _outputs(env_spaces)]
        self._layers = list(itertools.pairwise(sizes))
        self._params = np.zeros((0, self.num_parameters))

    @property
    def num_parameters(self) -> int:
        """Weights and biases of all layers."""
        return sum((num_in + 1) * num_out for num_in, num_out in self._layers)

    def assign(self, env: int, parameters: Array, seed: int) -> None:
        """Gives one environment its parameters.

        Args:
            env: Index of the environment.
            parameters: ``(num_parameters,)``.
            seed: Not used.

        Raises:
            ConfigError: The vector has another size.
        """
        if parameters.shape != (self.num_parameters,):
            raise ConfigError(
                f"a policy with layers {self._layers} has {self.num_parameters} parameters, got "
                f"{parameters.shape}"
            )
        self._reserve(env + 1)
        self._params[env] = parameters

    def initial_state(self, num_envs: int) -> None:
        self._reserve(num_envs)

    def act(self, state: None, step: EnvStep, mode: ActMode) -> tuple[Array, None, Columns]:
        values = self._features(step)  # (N, D)
        params, begin = self._params[: len(values)], 0
        for number, (num_in, num_out) in enumerate(self._layers):
            values = np.tanh(values) if number else values
            bias, begin = params[:, begin : begin + num_out], begin + num_out
            weight, begin = params[:, begin : begin + num_in * num_out], begin + num_in * num_out
            # Not a matrix product: each row's sum is to be the same to the last bit, however many
            # rows there are.
            products = weight.reshape(-1, num_out, num_in) * values[:, None]  # (N, O, D)
            values = products.sum(-1) + bias
        if self._discrete:
            return values.argmax(-1).astype(np.int32), None, {}
        action: Array = np.tanh(values).reshape(len(values), *self._action_shape)
        return action.astype(np.float32), None, {}

    def load_weights(self, weights: Weights) -> None:
        """Notes the version; all parameters come by :meth:`assign`."""
        self.version = weights.version

    def _features(self, step: EnvStep) -> Array:
        """All observations in one row ``float64 (N, D)``, pixels in [0, 1]."""
        parts = []
        for key in self._keys:
            part = step.obs[key].reshape(len(step.is_first), -1).astype(np.float64)
            parts.append(part / 255.0 if key in self._image_keys else part)
        return np.concatenate(parts, axis=1)

    def _reserve(self, num_envs: int) -> None:
        missing = num_envs - len(self._params)
        if missing > 0:
            self._params = np.pad(self._params, ((0, missing), (0, 0)))


def _outputs(env_spaces: EnvSpaces) -> int:
    action = env_spaces.action
    if isinstance(action, spaces.Discrete):
        return int(action.n)
    return math.prod(action.shape)
