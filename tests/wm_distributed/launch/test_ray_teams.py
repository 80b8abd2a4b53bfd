"""What a run asks of a cluster, without one."""

import dataclasses
from pathlib import Path

import pytest

from wm_distributed.config import LearnerConfig
from wm_distributed.errors import ConfigError
from wm_distributed.launch import ray_teams
from wm_distributed.launch.preflight import preflight
from wm_distributed.launch.rank_setup import choose_device
from wm_distributed.testing.counting_family import counting_preset


def test_a_run_that_is_too_large_for_the_cluster_is_refused_with_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_teams, "free_resources", lambda: {"CPU": 2.0, "GPU": 0.0})
    config = counting_preset()
    config = dataclasses.replace(config, actors=dataclasses.replace(config.actors, num_actors=3))
    teams = ray_teams.RayTeams(preflight(config, tmp_path), None)
    with pytest.raises(ConfigError, match=r"needs 2\.45 CPU cores.*3 x actor 0\.5.*but 2 are free"):
        teams.reserve()


@pytest.mark.parametrize(
    ("asked", "num_ranks", "num_gpus", "device"),
    [
        ("auto", 1, 0, "cpu"),
        ("auto", 1, 2, "cuda"),
        ("auto", 2, 2, "cuda"),
        ("cpu", 2, 1, "cpu"),
        ("cuda", 1, 1, "cuda"),
    ],
)
def test_a_gpu_is_taken_where_there_is_one_for_each_rank(
    asked: str, num_ranks: int, num_gpus: int, device: str
) -> None:
    learner = LearnerConfig(device=asked)  # type: ignore[arg-type]
    assert choose_device(learner, num_ranks, num_gpus) == device


@pytest.mark.parametrize(("asked", "num_ranks", "num_gpus"), [("cuda", 1, 0), ("auto", 2, 1)])
def test_too_few_gpus_are_refused(asked: str, num_ranks: int, num_gpus: int) -> None:
    learner = LearnerConfig(device=asked)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"needs {num_ranks} GPUs, but {num_gpus} are free"):
        choose_device(learner, num_ranks, num_gpus)


@pytest.mark.parametrize(("asked", "num_gpus"), [("auto", 0), ("cpu", 1)])
def test_cuda_graphs_without_a_gpu_are_refused(asked: str, num_gpus: int) -> None:
    learner = LearnerConfig(device=asked, cuda_graphs=True)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"device is '{asked}' and {num_gpus} GPUs are free"):
        choose_device(learner, 1, num_gpus)
