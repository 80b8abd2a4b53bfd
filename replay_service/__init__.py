"""The replay service: shards that hold experience, and the client that reads them all."""

from replay_service.client import ReplayClient
from replay_service.handles import LocalLimiter, LocalShard
from replay_service.limiter import ReplayRatioLimiter
from replay_service.shard import ReplayShard

__all__ = ["LocalLimiter", "LocalShard", "ReplayClient", "ReplayRatioLimiter", "ReplayShard"]
