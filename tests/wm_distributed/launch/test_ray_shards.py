import ray

from wm_distributed.launch.ray_shards import RayShards


def test_without_shards_nothing_is_closed_and_no_ray_is_started_for_it() -> None:
    RayShards((), 0.0).close()
    assert not ray.is_initialized()
