"""Fakes for tests and examples: a counting environment, a counting family, and replay in memory.

Together they prove a data path exact. The environment's observation says which episode and which
step it is, its reward says which action came before, and the policy's latent counts the steps since
``is_first``; :func:`check_counting_columns` compares every index with what must stand there.

None of this imports torch before a trainable or a policy is built.
"""

from wm_distributed.testing.counting_env import (
    CountingEnv,
    CountingVectorEnv,
    check_counting_columns,
)
from wm_distributed.testing.counting_family import COUNTING_FAMILY, CountingConfig
from wm_distributed.testing.fakes import FakeRateLimiter, FakeReplay, FakeWeights

__all__ = [
    "COUNTING_FAMILY",
    "CountingConfig",
    "CountingEnv",
    "CountingVectorEnv",
    "FakeRateLimiter",
    "FakeReplay",
    "FakeWeights",
    "check_counting_columns",
]
