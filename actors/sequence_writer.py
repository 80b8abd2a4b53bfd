"""Turns the steps of N environments into one chunk a stream and inserts them."""

from __future__ import annotations

import numpy as np

from wm_distributed.roles import ReplayWriter
from wm_distributed.types import (
    ACTION,
    IS_FIRST,
    IS_LAST,
    IS_TERMINAL,
    LATENT_VERSION,
    POLICY_VERSION,
    REWARD,
    Array,
    Columns,
    EnvStep,
    SequenceChunk,
    StreamId,
    obs_columns,
)


class SequenceWriter:
    """Collects up to ``chunk_steps`` steps of N streams in arrays ``(N, chunk_steps, …)``.

    The arrays are made once, at the first step, and used again for every chunk.
    """

    def __init__(
        self, writer: ReplayWriter, *, actor: int, incarnation: int, num_envs: int, chunk_steps: int
    ) -> None:
        """Begins the streams (actor, incarnation, 0 … N-1) at sequence number 0."""
        self._writer = writer
        self._streams = [StreamId(actor, incarnation, env) for env in range(num_envs)]
        self._chunk_steps = chunk_steps
        self._sequence_number = 0
        self._buffers: Columns = {}
        self._num_steps = 0

    def append(self, step: EnvStep, action: Array, extras: Columns, policy_version: int) -> None:
        """Adds index t of every stream.

        Args:
            step: What the environments returned.
            action: The action that they execute next, ``(N,)`` or ``(N, A)``; stored as zeros
                where ``is_last``, because there nobody executes it.
            extras: Columns ``latent/…`` of the policy, ``(N, …)``.
            policy_version: Version of the weights that chose the action and made the extras.
        """
        keep = ~step.is_last
        version = np.full(len(keep), policy_version, np.int32)
        row: Columns = {
            **obs_columns(step.obs),
            REWARD: step.reward,
            IS_FIRST: step.is_first,
            IS_LAST: step.is_last,
            IS_TERMINAL: step.is_terminal,
            ACTION: action * keep.reshape(-1, *[1] * (action.ndim - 1)).astype(action.dtype),
            POLICY_VERSION: version,
            LATENT_VERSION: version,
            **extras,
        }
        if not self._buffers:
            self._buffers = {
                name: np.zeros((len(keep), self._chunk_steps, *value.shape[1:]), value.dtype)
                for name, value in row.items()
            }
        for name, value in row.items():
            self._buffers[name][:, self._num_steps] = value
        self._num_steps += 1

    def insert(self, policy_version: int) -> int:
        """Sends what was collected, if anything, as the next chunk of every stream.

        Returns:
            Steps inserted, over all streams.
        """
        if not self._num_steps:
            return 0
        self._writer.insert(
            [
                SequenceChunk(
                    stream,
                    self._sequence_number,
                    policy_version,
                    {
                        name: buffer[env, : self._num_steps]
                        for name, buffer in self._buffers.items()
                    },
                )
                for env, stream in enumerate(self._streams)
            ]
        )
        self._sequence_number += 1
        env_steps, self._num_steps = self._num_steps * len(self._streams), 0
        return env_steps

    def end_streams(self) -> None:
        """Leaves out a sequence number: what comes next does not continue what came before."""
        self._sequence_number += 1
