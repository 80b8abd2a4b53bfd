"""What a driver makes of a worker's errors, and what waits for a limiter that is away; no Ray."""

from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ObjectLostError, RayTaskError

from wm_distributed.errors import (
    CheckpointError,
    DeadlineError,
    EnvError,
    RunDirError,
    WmError,
    WorkerDiedError,
)
from wm_distributed.launch import ray_handles
from wm_distributed.launch.ray_handles import (
    PatientInserting,
    PatientSampling,
    RayProcess,
    failure_of,
)


def as_ray_gives_it(cause: Exception) -> RayTaskError:
    error = RayTaskError("run", "Traceback:\n  \x1b[36mline 7\x1b[39m", cause).as_instanceof_cause()
    assert isinstance(error, RayTaskError)
    return error


@pytest.mark.parametrize(
    "cause",
    [RunDirError("full"), CheckpointError("of another size"), EnvError("failed, with a traceback")],
)
def test_an_error_that_the_user_must_mend_reaches_him_as_it_is(cause: WmError) -> None:
    failure = failure_of(as_ray_gives_it(cause))
    assert type(failure) is type(cause)
    assert str(failure) == str(cause)


@pytest.mark.parametrize("cause", [ValueError("a bug"), WorkerDiedError("a shard went")])
def test_anything_else_is_a_death_that_may_be_mended(cause: Exception) -> None:
    failure = failure_of(as_ray_gives_it(cause))
    assert isinstance(failure, WorkerDiedError)
    assert "line 7" in str(failure)


class Limiter:
    """Away at first, then there."""

    def __init__(self, away: WmError) -> None:
        self.away: WmError | None = away

    def reserve_insert(self, env_steps: int, timeout_seconds: float) -> bool:
        if self.away is not None:
            raise self.away
        return True

    def reserve_sample(self, train_steps: int, timeout_seconds: float) -> "Limiter":
        return self

    def result(self, timeout_seconds: float) -> bool:
        return self.reserve_insert(1, timeout_seconds)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_handles, "_RETRY_SECONDS", 0.0)


@pytest.mark.parametrize(
    "away", [WorkerDiedError("the limiter is restarting"), DeadlineError("its link is cut")]
)
def test_a_limiter_that_is_away_grants_nothing_and_then_what_it_grants(away: WmError) -> None:
    limiter: Any = Limiter(away)
    actor, learner = PatientInserting(limiter), PatientSampling(limiter)
    assert not actor.reserve_insert(8, 1.0)
    assert not learner.reserve_sample(8, 1.0).result(1.0)
    limiter.away = None
    assert actor.reserve_insert(8, 1.0)
    assert learner.reserve_sample(8, 1.0).result(1.0)


def test_an_answer_that_went_with_its_machine_is_a_death(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(_: object) -> None:
        raise ObjectLostError("ab", "", "")

    fake = SimpleNamespace(wait=lambda refs, timeout: (refs, []), get=get)
    monkeypatch.setattr(ray_handles, "ray", fake)
    process = RayProcess(None, lambda: "answer")  # type: ignore[arg-type, return-value]
    with pytest.raises(WorkerDiedError, match="its process died"):
        process.pulse()
    assert process.finished()
