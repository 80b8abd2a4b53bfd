"""How far sampled steps may be behind what is trained, and what happens to those beyond.

A step's *policy lag* is the number of versions published since the one that chose its action, its
*latent age* the number since its latents were stored. Both are limited where sequences are put
together into batches, by the oldest step of each sequence.
"""

from __future__ import annotations

import logging
import time

import numpy as np

from wm_distributed.config import ReplayConfig
from wm_distributed.types import LATENT_VERSION, POLICY_VERSION, Array, Columns

logger = logging.getLogger(__name__)

_WARN_SECONDS = 60.0


class AgeLimits:
    """The limits of a learner's batches. Its readers ask, the learner tells what is newest.

    Attributes:
        newest_version: The learner's last publication, which ages are counted from.
        stale_sequences: Sequences beyond a limit so far.
        discards: Whether others are drawn in their place.
        pauses: Whether training waits until a batch has none.
    """

    def __init__(self, config: ReplayConfig) -> None:
        """Takes the limits as they are configured."""
        self.newest_version = 0
        self.stale_sequences = 0
        self.discards = config.when_stale == "discard"
        self.pauses = config.when_stale == "pause"
        limits = {POLICY_VERSION: config.max_policy_lag, LATENT_VERSION: config.max_latent_age}
        self._limits = {name: limit for name, limit in limits.items() if limit is not None}
        self._warned_at = float("-inf")

    def admit(self, columns: Columns, context: int) -> Array:
        """Which sequences may be trained on, ``bool (b,)``; the others are counted.

        Args:
            columns: ``(b, context + T, …)``; a version that is not among them is not judged.
            context: Leading steps, which may be of any age.
        """
        young = np.ones(len(next(iter(columns.values()))), bool)
        for name, limit in self._limits.items():
            if name in columns:
                oldest = columns[name][:, context:].min(1)
                young &= self.newest_version - oldest <= limit
        if not young.all():
            self.stale_sequences += int((~young).sum())
            self._warn()
        return young if self.discards or self.pauses else np.ones_like(young)

    def __str__(self) -> str:
        """The limits, for messages."""
        names = {POLICY_VERSION: "replay.max_policy_lag", LATENT_VERSION: "replay.max_latent_age"}
        return ", ".join(f"{names[name]} {limit}" for name, limit in self._limits.items())

    def _warn(self) -> None:
        """Says so, but not at every batch."""
        if time.monotonic() - self._warned_at > _WARN_SECONDS:
            self._warned_at = time.monotonic()
            logger.warning(
                "%d sequences so far were older than %s allows at version %d",
                self.stale_sequences, self, self.newest_version,
            )  # fmt: skip
