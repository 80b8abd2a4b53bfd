"""What a valid step is, so that nothing else reaches the policy or replay."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from gymnasium import spaces

from wm_distributed.api import EnvSpaces, Policy
from wm_distributed.errors import GatewayError
from wm_distributed.types import (
    ACTION,
    IS_FIRST,
    IS_LAST,
    IS_TERMINAL,
    LATENT_VERSION,
    OBS_PREFIX,
    REWARD,
    Array,
    Columns,
    EnvStep,
)


class StepLayout:
    """The columns of a run: names, types, shapes, and what their values may be.

    Attributes:
        observed: Names of those that a simulator gives: observations, reward and flags.
        latent: Names of those that the policy adds.
        action_space: Of one simulator.
        num_actions: Number of discrete actions; 0 where they are continuous.
        example: One step ``(1, …)``, all zeros.
    """

    def __init__(self, env_spaces: EnvSpaces, policy: Policy) -> None:
        """Lets the policy act once, on zeros, to see what it adds to a step."""
        obs = {key: np.zeros((1, *s.shape), s.dtype) for key, s in env_spaces.obs.items()}
        flag = np.zeros(1, np.bool_)
        step = EnvStep(obs, np.zeros(1, np.float32), ~flag, flag, flag)
        _, _, latents = policy.act(policy.initial_state(1), step, "train")
        observed = observed_columns(step)
        self.action_space = space = env_spaces.action
        self.num_actions = int(space.n) if isinstance(space, spaces.Discrete) else 0
        shape = (1,) if isinstance(space, spaces.Discrete) else (1, *space.shape)
        action = np.zeros(shape, np.int32 if self.num_actions else np.float32)
        self.observed = frozenset(observed)
        self.latent = frozenset(latents)
        self.example: Columns = {
            name: np.zeros_like(value)
            for name, value in {**observed, ACTION: action, **latents}.items()
        }

    def check(self, columns: Columns, names: Collection[str], rows: int) -> None:
        """Refuses columns ``(rows, …)`` that are not exactly the named ones, or hold a bad value.

        Raises:
            GatewayError: What was expected and what came.
        """
        if columns.keys() != set(names):
            raise GatewayError(f"expected the columns {sorted(names)}, got {sorted(columns)}")
        for name, value in columns.items():
            example = self.example[name]
            expected = (rows, *example.shape[1:])
            if value.shape != expected or value.dtype != example.dtype:
                raise GatewayError(
                    f"column {name!r}: expected {example.dtype} {expected}, got {value.dtype} "
                    f"{value.shape}"
                )
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise GatewayError(f"column {name!r}: expected finite numbers")
        if (columns[IS_TERMINAL] & ~columns[IS_LAST]).any():
            raise GatewayError("is_terminal where is_last is false")
        if columns[REWARD][columns[IS_FIRST]].any():
            raise GatewayError("the reward must be 0 where is_first is true: nothing earned it")
        if ACTION in columns:
            self._check_action(columns[ACTION], columns[IS_LAST])

    def _check_action(self, action: Array, is_last: Array) -> None:
        low, high = (0, self.num_actions - 1) if self.num_actions else (-1, 1)
        if action.min() < low or action.max() > high:
            raise GatewayError(
                f"actions must be from {low} to {high}, got {action.min()} to {action.max()}"
            )
        if action[is_last].any():
            raise GatewayError("the action must be 0 where is_last is true: nobody executes it")

    def completed(self, columns: Columns) -> Columns:
        """The columns ``(T, …)`` of a chunk, with latents of zeros and version 0 if it has none.

        A policy of the client's own has no latents of ours: sequences then start from zeros, as an
        episode does, until a learner has written its own back.
        """
        rows = len(columns[REWARD])
        missing = self.latent - columns.keys()
        if not missing:
            return columns
        zeros = {
            name: np.zeros((rows, *self.example[name].shape[1:]), self.example[name].dtype)
            for name in missing
        }
        return {**columns, **zeros, LATENT_VERSION: np.zeros(rows, np.int32)}


def observed_columns(step: EnvStep) -> Columns:
    """What simulators returned together, as columns ``(N, …)``."""
    return {
        **{OBS_PREFIX + key: value for key, value in step.obs.items()},
        REWARD: step.reward,
        IS_FIRST: step.is_first,
        IS_LAST: step.is_last,
        IS_TERMINAL: step.is_terminal,
    }


def env_step(columns: Columns) -> EnvStep:
    """The step that :func:`observed_columns` made columns of."""
    return EnvStep(
        {
            name.removeprefix(OBS_PREFIX): value
            for name, value in columns.items()
            if name.startswith(OBS_PREFIX)
        },
        columns[REWARD],
        columns[IS_FIRST],
        columns[IS_LAST],
        columns[IS_TERMINAL],
    )


def check_begins(is_first: Array, expected: Array | bool) -> None:
    """Refuses an episode that begins elsewhere than after the last step of the one before.

    Raises:
        GatewayError: Where, and what to send instead.
    """
    wrong = np.flatnonzero(is_first != expected)
    if len(wrong):
        raise GatewayError(
            f"is_first is {bool(is_first[wrong[0]])} at index {wrong[0]}: it must be true at the "
            "first step and after each is_last, and nowhere else; end an episode that is broken "
            "off with is_last (and is_terminal false)"
        )
