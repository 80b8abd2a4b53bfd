from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from wm_distributed.config import RunConfig, StopConfig
from wm_distributed.launch.history import History, duration, sparkline
from wm_distributed.launch.runtime import RunStatus

MakeStatus = Callable[..., RunStatus]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def history(config: RunConfig[Any], clock: Clock, **stop: Any) -> History:
    limits: dict[str, Any] = {"env_steps": None} | stop
    return History(replace(config, stop=StopConfig(**limits)), clock=clock)


def feed(
    target: History, clock: Clock, make: MakeStatus, times: list[tuple[float, int]], **changes: Any
) -> None:
    for seconds, env_steps in times:
        clock.now = 1000.0 + seconds
        target.update(make(env_steps, **changes))


def test_rates_are_those_of_the_last_half_minute(
    config: RunConfig[Any], clock: Clock, make_status: MakeStatus
) -> None:
    target = history(config, clock, env_steps=2000)
    feed(target, clock, make_status, [(0, 0)])
    assert target.rates() == (None, None)
    feed(target, clock, make_status, [(10, 1000), (40, 1060), (60, 1200)])
    assert target.rates() == (7.0, 28.0)  # the steps of second 10 are forgotten


def test_rates_of_a_phase_do_not_count_the_one_before(
    config: RunConfig[Any], clock: Clock, make_status: MakeStatus
) -> None:
    target = history(config, clock, env_steps=2000)
    feed(target, clock, make_status, [(0, 0), (1, 1000)], phase="prefill")
    assert target.time_left() is None
    feed(target, clock, make_status, [(2, 1000), (12, 1100)])
    assert target.rates()[0] == 10.0
    assert target.time_left() == (90.0, "env steps")


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"env_steps": 1000}, (90.0, "env steps")),
        ({"env_steps": 1000, "train_steps": 600}, (5.0, "train steps")),
        ({"env_steps": 1000, "wall_seconds": 30.0}, (20.0, "time")),
    ],
)
def test_the_nearest_limit_tells_the_time_left(
    limits: dict[str, Any],
    expected: tuple[float, str],
    config: RunConfig[Any],
    clock: Clock,
    make_status: MakeStatus,
) -> None:
    target = history(config, clock, **limits)
    feed(target, clock, make_status, [(0, 0), (10, 100)])  # 10 env and 40 train steps a second
    assert target.time_left() == expected


def test_seconds_before_a_resumption_count(config: RunConfig[Any], clock: Clock) -> None:
    target = History(config, already_seconds=50.0, clock=clock)
    clock.now += 100
    target.begin()
    clock.now += 7
    assert target.seconds == 57.0


def test_who_waits_and_for_what(
    config: RunConfig[Any], clock: Clock, make_status: MakeStatus
) -> None:
    target = history(config, clock, env_steps=1000)
    for seconds, waited in ((0, 5.0), (5, 9.0)):
        clock.now = 1000.0 + seconds
        metrics = {
            "actor/wait_share": 0.256,
            "learner/wait_share": 0.03,
            "learner/ratio_wait_seconds": waited,
            "learner/data_wait_seconds": 100.0,  # long ago
        }
        target.update(make_status(10, metrics=metrics))
    assert target.waits() == "actors 26 % (ratio), learner 3 % (ratio)"
    target.update(make_status(20, metrics={}))
    assert target.waits() == ""


def test_returns_are_kept_once_each_and_nan_is_none(
    config: RunConfig[Any], clock: Clock, make_status: MakeStatus
) -> None:
    target = history(config, clock, env_steps=1000)
    for value in (float("nan"), 1.0, 1.0, 3.0):
        target.update(make_status(1, metrics={"actor/return_mean": value}))
    assert target.train_returns == [1.0, 3.0]


def test_sparkline_is_as_long_as_asked_and_rises_with_the_values() -> None:
    assert sparkline([1.0]) == ""
    assert sparkline([0.0, 7.0]) == "▁█"
    assert sparkline([5.0, 5.0, 5.0]) == "▁▁▁"
    line = sparkline([float(value) for value in range(1000)], width=24)
    assert len(line) == 24
    assert list(line) == sorted(line)
    assert line[0] == "▁"
    assert line[-1] == "█"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (754, "12:34"), (7384, "2:03:04")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_phase_with_an_end_has_its_own_progress_and_time_left(
    config: RunConfig[Any], clock: Clock, make_status: MakeStatus
) -> None:
    target = history(config, clock, wall_seconds=1000.0)
    for seconds, done in ((0, 10), (10, 30)):
        clock.now = 1000.0 + seconds
        target.update(make_status(0, phase="vision", phase_progress=(done, 90)))
    assert target.progress() == (30, 90)
    assert target.time_left() == (30.0, "of vision")
