"""Actors that join and leave, with teams of fake processes instead of Ray's."""

import random
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from wm_distributed.config import RunConfig
from wm_distributed.errors import WorkerDiedError
from wm_distributed.launch import ray_actors
from wm_distributed.launch.ray_actors import RayActors
from wm_distributed.launch.run_dir import RunDir
from wm_distributed.launch.scale import scale_run
from wm_distributed.launch.supervisor import Patience, Process, Pulse, Team


class FakeActor:
    """A process that counts a step whenever it is asked, and ends two polls after it is told to."""

    def __init__(self, index: int, life: int) -> None:
        self.index, self.life = index, life
        self.steps = 0
        self.polls_left: int | None = None
        self.answers_every = 1
        self.polls = 0
        self.dies = self.killed = False
        self.actor = SimpleNamespace(stop=SimpleNamespace(remote=self._stop))

    def _stop(self) -> None:
        self.polls_left = 2 if self.polls_left is None else self.polls_left

    def pulse(self) -> Pulse | None:
        if self.dies:
            raise WorkerDiedError("killed by the test")
        if self.polls_left:
            self.polls_left -= 1
        self.steps += not self.finished()
        self.polls += 1
        if self.polls % self.answers_every:
            return None
        return Pulse(node="here", pid=1, stats={"actor/env_steps": float(self.steps)})

    def finished(self) -> bool:
        return self.dies or self.polls_left == 0

    def kill(self) -> None:
        self.killed = True


class FakeTeams:
    """Makes teams of one such process; holds all that were ever launched."""

    def __init__(self) -> None:
        self.launched: list[FakeActor] = []

    def actor(self, index: int, seed: int, first_incarnation: int) -> Team:
        def launch(incarnation: int) -> Sequence[Process]:
            self.launched.append(FakeActor(index, first_incarnation + incarnation))
            return self.launched[-1:]

        return Team("actor", index, launch, Patience(max_restarts=5), rng=random.Random(0))


class Bench:
    """Two actors of a run, and its directory."""

    def __init__(self, run_dir: RunDir, config: RunConfig[Any]) -> None:
        plan = SimpleNamespace(config=config, run_dir=run_dir.path, num_actors=2)
        self.run_dir = run_dir
        self.teams = FakeTeams()
        self.actors = RayActors(plan, self.teams, may_wait_for_room=False)  # type: ignore[arg-type]
        self.actors.start(seed=0, first_incarnation=4)

    def ask_for(self, number: int) -> None:
        scale_run(self.run_dir.path, actors=number)

    def poll(self, times: int = 1) -> None:
        for _ in range(times):
            for team in self.actors.teams:
                team.poll()
            self.actors.scale()

    def indices(self) -> list[int]:
        return [status.index for team in self.actors.teams for status in team.statuses()]

    def env_steps(self) -> float:
        stats = [s.stats for team in self.actors.teams for s in team.statuses()]
        lost = [team.lost_counters() for team in self.actors.teams]
        return sum(values.get("actor/env_steps", 0.0) for values in (*stats, *lost))


@pytest.fixture
def bench(run_dir: RunDir, config: RunConfig[Any], monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(ray_actors, "free_resources", lambda: {"CPU": 1.0})
    return Bench(run_dir, config)


def test_actors_join_one_at_a_time(bench: Bench) -> None:
    bench.poll()
    assert bench.indices() == [0, 1]
    bench.ask_for(4)
    bench.poll()
    assert bench.indices() == [0, 1, 2]
    bench.poll(3)
    assert bench.indices() == [0, 1, 2, 3]


def test_nobody_joins_where_there_is_no_room(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ray_actors, "free_resources", lambda: {"CPU": 0.4})
    bench.ask_for(4)
    bench.poll(3)
    assert bench.indices() == [0, 1]
    assert "4 actors are wanted, but there is room for no more than 2" in caplog.text


def test_an_actor_leaves_after_its_chunk_and_what_it_has_counted_stays(bench: Bench) -> None:
    bench.poll(3)
    bench.ask_for(1)
    leaver = bench.teams.launched[1]
    bench.poll()
    assert not leaver.killed
    before = bench.env_steps()
    for _ in range(8):
        bench.poll()
        assert bench.env_steps() >= before + 1  # the other one goes on
        before = bench.env_steps()
    assert leaver.killed
    assert bench.indices() == [0]
    assert bench.env_steps() == sum(actor.steps for actor in bench.teams.launched)


def test_an_actor_that_answers_slowly_is_waited_for_until_its_end_is_counted(bench: Bench) -> None:
    bench.poll(3)
    leaver = bench.teams.launched[1]
    leaver.answers_every = 10
    bench.ask_for(1)
    bench.poll(30)
    assert leaver.killed
    assert bench.env_steps() == sum(actor.steps for actor in bench.teams.launched)


def test_an_actor_that_comes_back_has_other_streams_than_all_before(bench: Bench) -> None:
    for number in (1, 2, 1, 2):
        bench.ask_for(number)
        bench.poll(8)
    assert bench.indices()[:2] == [0, 1]
    lives = [(actor.index, actor.life) for actor in bench.teams.launched]
    assert lives == [(0, 4), (1, 4), (1, 5), (1, 6)]


def test_an_actor_that_dies_while_it_leaves_is_not_started_again(bench: Bench) -> None:
    bench.poll()
    bench.ask_for(1)
    bench.poll()
    bench.teams.launched[1].dies = True
    bench.poll(8)
    assert bench.indices() == [0]
    assert len(bench.teams.launched) == 2


def test_all_are_released_once_everything_is_collected(bench: Bench) -> None:
    bench.poll()
    for _ in range(3):
        assert bench.actors.are_there
        bench.actors.release()
        for team in bench.actors.teams:
            team.poll()
    bench.actors.release()
    assert not bench.actors.are_there
    assert bench.indices() == []
    assert bench.env_steps() == sum(actor.steps for actor in bench.teams.launched)
