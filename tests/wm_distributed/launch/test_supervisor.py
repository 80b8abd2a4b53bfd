"""Teams of fake processes under a fake clock."""

import random
import time
from collections.abc import Callable, Sequence

import pytest

from wm_distributed.errors import ConfigError, WmError, WorkerDiedError
from wm_distributed.launch.supervisor import Patience, Process, Pulse, Team, tend


class FakeProcess:
    """Answers whatever it is told to; an error is raised."""

    def __init__(self, pid: int) -> None:
        self.answer: Pulse | WmError | None = Pulse(node="here", pid=pid)
        self.killed = False

    def pulse(self) -> Pulse | None:
        if isinstance(self.answer, WmError):
            raise self.answer
        return self.answer

    def failed(self) -> bool:
        return isinstance(self.answer, WorkerDiedError)

    def kill(self) -> None:
        self.killed = True


class Bench:
    """A team, everything that it launched, and the time."""

    def __init__(self, size: int = 1, **patience: float | str) -> None:
        self.now = 0.0
        self.launched: list[list[FakeProcess]] = []
        self.size = size
        limits = {"max_restarts": 5, **patience}
        self.team = Team(
            "actor",
            3,
            self.launch,
            Patience(**limits),  # type: ignore[arg-type]
            rng=random.Random(0),
            clock=lambda: self.now,
        )
        self.team.start()

    def launch(self, incarnation: int) -> Sequence[Process]:
        assert incarnation == len(self.launched)
        self.launched.append([FakeProcess(100 * incarnation + i) for i in range(self.size)])
        return self.launched[-1]

    def process(self, index: int = 0) -> FakeProcess:
        return self.launched[-1][index]

    def poll_until(self, condition: Callable[[], bool], step: float = 0.1) -> float:
        """Polls until the condition holds; gives the seconds that passed."""
        begin = self.now
        while not condition():
            self.now += step
            self.team.poll()
            assert self.now - begin < 1000
        return self.now - begin

    def die(self) -> float:
        """Kills the newest incarnation; gives the seconds until the next one is launched."""
        count = len(self.launched)
        self.process().answer = WorkerDiedError("killed by the test")
        self.team.poll()
        return self.poll_until(lambda: len(self.launched) > count)


def test_a_healthy_team_is_left_alone() -> None:
    bench = Bench()
    assert bench.team.statuses()[0].health == "starting"
    bench.team.poll()
    (status,) = bench.team.statuses()
    assert (status.role, status.index, status.health) == ("actor", 3, "running")
    assert (status.node, status.pid, status.restarts) == ("here", 0, 0)
    assert len(bench.launched) == 1
    assert not bench.process().killed


def test_a_dead_process_is_started_again_with_the_next_incarnation_after_a_pause() -> None:
    bench = Bench()
    bench.team.poll()
    assert not bench.team.needs_care
    bench.process().answer = WorkerDiedError("killed by the test")
    assert bench.team.needs_care  # before the poll that notices
    bench.team.poll()
    (status,) = bench.team.statuses()
    assert (status.health, status.pid, status.restarts) == ("restarting", 0, 1)
    assert bench.team.needs_care
    assert len(bench.launched) == 1
    pause = bench.poll_until(lambda: len(bench.launched) == 2)
    assert 0.25 <= pause <= 0.75 + 0.1
    assert bench.team.needs_care  # launched, but not ready
    bench.team.poll()
    assert bench.team.statuses()[0].pid == 100
    assert not bench.team.needs_care


def test_only_who_needs_care_is_polled_while_a_poll_is_waited_for() -> None:
    dead, alive = Bench(), Bench()
    for bench in (dead, alive):
        bench.team.poll()
    dead.process().answer = WorkerDiedError("killed by the test")
    alive.process().answer = Pulse(node="here", pid=5)  # heard at the next poll
    until = time.monotonic() + 0.1
    tend([dead.team, alive.team], until)
    assert time.monotonic() >= until
    assert [bench.team.statuses()[0].health for bench in (dead, alive)] == ["restarting", "running"]
    assert alive.team.statuses()[0].pid == 0


def test_the_pause_doubles_while_deaths_follow_each_other_and_is_short_again_after_a_calm() -> None:
    bench = Bench(backoff_seconds=1.0, calm_seconds=60.0)
    pauses = [bench.die() for _ in range(3)]
    for pause, expected in zip(pauses, (1.0, 2.0, 4.0), strict=True):
        assert 0.5 * expected <= pause <= 1.5 * expected + 0.1
    bench.now += 61.0
    assert bench.die() <= 1.5 + 0.1


def test_a_spent_budget_ends_the_run_with_the_last_cause() -> None:
    bench = Bench(max_restarts=2)
    bench.die()
    bench.die()
    bench.process().answer = WorkerDiedError("the cause")
    with pytest.raises(WorkerDiedError, match=r"actor 3: the cause\n.*2 times"):
        bench.team.poll()
    assert bench.process().killed


def test_the_budget_is_one_of_each_hour() -> None:
    bench = Bench(max_restarts=2)
    for _ in range(5):  # one death every forty minutes
        bench.die()
        bench.now += 2400.0
    bench.die()
    bench.process().answer = WorkerDiedError("the cause")
    with pytest.raises(WorkerDiedError, match="2 times within an hour"):
        bench.team.poll()


def test_a_retired_team_is_gone_and_what_it_has_counted_stays() -> None:
    bench = Bench()
    bench.process().answer = Pulse(node="here", pid=1, stats={"actor/env_steps": 7.0})
    bench.team.poll()
    bench.team.retire()
    bench.team.poll()
    assert bench.process().killed
    assert bench.team.statuses() == []
    assert bench.team.lost_counters() == {"actor/env_steps": 7.0}
    assert len(bench.launched) == 1


def test_a_failure_that_cannot_pass_ends_the_run_at_once() -> None:
    bench = Bench()
    bench.process().answer = ConfigError("never")
    with pytest.raises(ConfigError, match="never"):
        bench.team.poll()


def test_a_process_that_waits_too_long_for_something_is_ended_and_started_again() -> None:
    bench = Bench(hung_seconds=10.0)
    bench.process().answer = Pulse(node="here", pid=1, busy_seconds=9.0)
    bench.team.poll()
    assert not bench.process().killed
    first = bench.process()
    first.answer = Pulse(node="here", pid=1, busy_seconds=11.0)
    bench.team.poll()
    assert first.killed
    bench.poll_until(lambda: len(bench.launched) == 2)


def test_a_hung_process_is_named_with_what_it_waits_for(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(hung_seconds=10.0, hung_on="no answer from environment 'x' (its log: actor-3)")
    bench.process().answer = Pulse(node="here", pid=1, busy_seconds=11.0)
    bench.team.poll()
    expected = "actor 3: hangs: no answer from environment 'x' (its log: actor-3) for 11 s"
    assert expected in caplog.text


def test_a_silent_process_is_ended_after_its_time() -> None:
    bench = Bench(silent_seconds=20.0, start_seconds=50.0)
    bench.process().answer = None
    assert 50.0 <= bench.poll_until(lambda: bench.process().killed, 1.0) <= 51.1
    bench.poll_until(lambda: len(bench.launched) == 2)
    bench.team.poll()
    bench.process().answer = None
    assert 20.0 <= bench.poll_until(lambda: bench.process().killed, 1.0) <= 21.1


def test_a_process_that_has_not_answered_for_a_while_is_called_silent() -> None:
    bench = Bench()
    bench.team.poll()
    bench.process().answer = None
    silent = bench.poll_until(lambda: bench.team.statuses()[0].health == "silent", 1.0)
    assert 10.0 < silent <= 11.1
    bench.process().answer = Pulse(node="here", pid=0)
    bench.team.poll()
    assert bench.team.statuses()[0].health == "running"


def test_the_others_of_a_team_are_ended_with_the_first_that_dies() -> None:
    bench = Bench(size=3)
    bench.team.poll()
    ended = bench.launched[0]
    ended[1].answer = WorkerDiedError("rank 1")
    bench.team.poll()
    assert all(process.killed for process in ended)
    bench.poll_until(lambda: len(bench.launched) == 2)
    bench.team.poll()
    assert [status.pid for status in bench.team.statuses()] == [100, 101, 102]


def test_counters_that_are_summed_outlive_their_process_and_gauges_do_not() -> None:
    bench = Bench()
    stats = {"actor/env_steps": 40.0, "actor/return_mean": 7.0, "limiter/env_steps": 99.0}
    bench.process().answer = Pulse(node="here", pid=1, stats=stats)
    bench.team.poll()
    bench.die()
    assert bench.team.lost_counters() == {"actor/env_steps": 40.0}
    bench.process().answer = Pulse(node="here", pid=2, stats={"actor/env_steps": 2.0})
    bench.team.poll()
    bench.die()
    assert bench.team.lost_counters() == {"actor/env_steps": 42.0}
    assert bench.team.statuses()[0].stats == {}


def test_a_process_that_came_back_by_itself_counts_as_restarted() -> None:
    bench = Bench()
    told: list[object] = []
    bench.team.on_restart = told.append
    bench.process().answer = Pulse(
        node="here", pid=1, stats={"replay/inserted_steps": 5.0}, counts={"env_steps": 5}
    )
    bench.team.poll()
    assert not told
    bench.process().answer = Pulse(node="here", pid=2)
    bench.team.poll()
    assert (bench.team.restarts, len(bench.launched)) == (1, 1)
    assert bench.team.lost_counters() == {"replay/inserted_steps": 5.0}
    assert told == [{"env_steps": 5}]
    bench.team.poll()
    assert len(told) == 1


def test_a_process_that_came_back_on_another_machine_with_the_same_id_counts_as_restarted() -> None:
    bench = Bench()
    bench.process().answer = Pulse(node="here", pid=7)
    bench.team.poll()
    bench.process().answer = Pulse(node="there", pid=7)
    bench.team.poll()
    assert bench.team.restarts == 1


def test_a_process_works_only_once_it_is_ready_and_has_limited_time_for_that() -> None:
    bench = Bench(start_seconds=50.0)
    bench.process().answer = Pulse(node="here", pid=1, ready=False)
    bench.team.poll()
    assert bench.team.statuses()[0].health == "starting"
    assert 50.0 <= bench.poll_until(lambda: bench.process().killed, 1.0) <= 51.1


def test_the_duration_of_a_recovery_lasts_until_the_successor_is_ready() -> None:
    bench = Bench(backoff_seconds=1.0)
    told: list[object] = []
    bench.team.on_restart = told.append
    pause = bench.die()
    bench.process().answer = Pulse(node="here", pid=1, ready=False)
    bench.now += 4.0
    bench.team.poll()
    assert not told
    bench.process().answer = Pulse(node="here", pid=1)
    bench.team.poll()
    assert len(told) == 1
    assert bench.team.recovery_seconds == pytest.approx(pause + 4.0)


def test_the_recovery_of_what_came_back_by_itself_lasts_from_the_last_answer() -> None:
    bench = Bench()
    bench.process().answer = Pulse(node="here", pid=1)
    bench.team.poll()
    bench.process().answer = None  # dead, and Ray is starting it again
    for _ in range(7):
        bench.now += 1.0
        bench.team.poll()
    bench.now += 1.0
    bench.process().answer = Pulse(node="here", pid=2)
    bench.team.poll()
    assert bench.team.recovery_seconds == pytest.approx(8.0)


def test_a_renewed_process_is_no_restart_and_what_it_counted_stays() -> None:
    launched: list[FakeProcess] = []

    def launch(incarnation: int) -> Sequence[Process]:
        launched.append(FakeProcess(len(launched)))
        return launched[-1:]

    team = Team("evaluator", 0, launch, Patience(max_restarts=0), rng=random.Random(0))
    team.start()
    launched[0].answer = Pulse(node="here", pid=0, stats={"run/cpu_seconds": 7.0})
    team.poll()
    team.renew()
    team.poll()
    assert [process.killed for process in launched] == [True, False]
    assert team.restarts == 0
    assert team.lost_counters() == {"run/cpu_seconds": 7.0}
    assert team.statuses()[0].pid == 1
