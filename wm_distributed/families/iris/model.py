"""The networks of an IRIS agent, grouped by who needs them."""

from __future__ import annotations

from gymnasium import spaces
from torch import nn

from wm_distributed.api import EnvSpaces
from wm_distributed.errors import ConfigError
from wm_distributed.families.iris.actor_critic import Actor
from wm_distributed.families.iris.config import IrisConfig
from wm_distributed.families.iris.tokenizer import Tokenizer
from wm_distributed.families.iris.world_model import WorldModel


class ActingModel(nn.Module):
    """What acting needs: the actor, and the tokenizer through which it sees. It is published."""

    def __init__(self, config: IrisConfig, env_spaces: EnvSpaces) -> None:
        """Builds the networks.

        Raises:
            ConfigError: They cannot serve the spaces.
        """
        super().__init__()
        self.image_key, self.num_actions = check_spaces(config, env_spaces)
        size = env_spaces.obs[self.image_key].shape[0]
        self.tokenizer = Tokenizer(config.tokenizer, size)
        self.actor = Actor(config.actor_critic, size, self.num_actions)


class IrisModel(nn.Module):
    """All networks: the acting part, the world model and the value."""

    def __init__(self, config: IrisConfig, env_spaces: EnvSpaces) -> None:
        """Builds the networks.

        Raises:
            ConfigError: They cannot serve the spaces.
        """
        super().__init__()
        self.acting = ActingModel(config, env_spaces)
        tokenizer = self.acting.tokenizer
        self.world_model = WorldModel(
            config.world_model,
            tokenizer.num_tokens,
            lambda: tokenizer.codebook.codes,
            self.acting.num_actions,
        )
        self.value = nn.Linear(config.actor_critic.units, 1)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)


def check_spaces(config: IrisConfig, env_spaces: EnvSpaces) -> tuple[str, int]:
    """Key of the one observation, a square image, and the number of actions.

    Raises:
        ConfigError: The spaces are others, or the image does not fit the networks' geometry.
    """
    if not isinstance(env_spaces.action, spaces.Discrete):
        raise ConfigError(f"iris needs discrete actions, got {env_spaces.action}")
    shapes = {key: (space.dtype.name, space.shape) for key, space in env_spaces.obs.items()}
    (dtype, shape), *others = shapes.values()
    if others or dtype != "uint8" or len(shape) != 3 or shape[0] != shape[1]:
        raise ConfigError(f"iris needs one observation, a square image in uint8, got {shapes}")
    patch, halvings = config.tokenizer.patch, len(config.actor_critic.channels)
    if shape[0] % patch or shape[0] < 2 * patch:
        raise ConfigError(
            f"frames of {shape[0]}×{shape[0]} pixels cannot be cut into patches of "
            f"{patch}×{patch}: change env.image_size, or the number of "
            "model.tokenizer.multiples, each of which but the first halves the frame"
        )
    if shape[0] < 2**halvings:
        raise ConfigError(
            f"model.actor_critic.channels halve a frame of {shape[0]}×{shape[0]} pixels "
            f"{halvings} times: give fewer of them, or larger frames (env.image_size)"
        )
    return next(iter(shapes)), int(env_spaces.action.n)
