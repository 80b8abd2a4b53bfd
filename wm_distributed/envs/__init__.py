"""Environments by id, stepped N at a time, with exact episode ends and checked values.

::

    engine (EnvPool, gymnasium.vector, a toy)  →  Border  →  actor
      its own spaces, bounds and resets           image/vector, [−1, 1], EnvStep

See :func:`list_env_ids` for the ids. Engines are imported when an environment of theirs is made.
"""

from wm_distributed.envs.drawing import draw_observation
from wm_distributed.envs.registry import EnvEntry, env_spaces, list_env_ids, make_vector_env

__all__ = ["EnvEntry", "draw_observation", "env_spaces", "list_env_ids", "make_vector_env"]
