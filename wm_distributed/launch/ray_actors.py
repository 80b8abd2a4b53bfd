"""The actors of a run on Ray: as many as ``config.json`` says, also when that is changed.

``wm-distributed scale`` writes another number there. Actors that are too many end after the chunk
under way, and what they have counted stays counted; new ones begin new streams.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from wm_distributed.launch.plan import Plan
from wm_distributed.launch.ray_cluster import free_resources
from wm_distributed.launch.ray_handles import RayProcess
from wm_distributed.launch.ray_teams import CORES, RayTeams
from wm_distributed.launch.scale import WantedActors
from wm_distributed.launch.supervisor import Pulse, Team

_LAST_ANSWERS = 2  # after the first one; they were asked for after its end


class RayActors:
    """The teams of the actors, and that of the gateway."""

    def __init__(self, plan: Plan, teams: RayTeams, *, may_wait_for_room: bool) -> None:
        """Starts nothing yet.

        Args:
            plan: The run.
            teams: Makes the teams.
            may_wait_for_room: Whether a new actor may be asked for where no cores are free, because
                the cluster may grow.
        """
        self._plan = plan
        self._teams = teams
        self._may_wait_for_room = may_wait_for_room
        self._wanted = WantedActors(plan.run_dir, plan.num_actors)
        self._actors: list[Team] = []
        self._leaving: list[_Leaver] = []
        self._left: list[Team] = []
        self._gateways: list[Team] = []
        self._seed, self._first_incarnation = 0, 0
        self._lives: Counter[int] = Counter()  # of the actors that have left, by their number

    @property
    def teams(self) -> list[Team]:
        """All of them, and those that have left, which still tell what they have counted."""
        leaving = [leaver.team for leaver in self._leaving]
        return [*self._actors, *self._gateways, *leaving, *self._left]

    @property
    def are_there(self) -> bool:
        """Whether anybody may still insert."""
        return bool(self._actors or self._gateways or self._leaving)

    def start(self, seed: int, first_incarnation: int) -> None:
        """Starts all.

        Args:
            seed: The run's, or another one after a resume.
            first_incarnation: Higher than those that replay knows.
        """
        self._seed, self._first_incarnation = seed, first_incarnation
        for _ in range(self._plan.num_actors):
            self._join()
        if self._plan.config.gateway.port is not None:
            self._gateways = [self._teams.gateway(seed)]
            self._gateways[0].start()

    def scale(self) -> None:
        """Brings the actors towards their wanted number; for after each poll of the teams.

        One joins at a time, because Ray takes a moment to count what it needs, and none while
        another of its number may still be leaving.
        """
        wanted = self._wanted.number()
        while len(self._actors) > wanted:
            self._leave(self._actors.pop())
        if len(self._actors) < wanted and not self._leaving and self._has_room():
            self._join()
        for leaver in list(self._leaving):
            if leaver.has_left():
                self._leaving.remove(leaver)
                self._retire([leaver.team])

    def release(self) -> None:
        """Asks all to end after the chunk under way, and ends them when they have."""
        for team in self.teams:
            _ask_to_stop(team)
        if all(map(_finished, self.teams)):
            self.end()

    def end(self) -> None:
        """Ends all at once."""
        teams = [*self._actors, *self._gateways, *(leaver.team for leaver in self._leaving)]
        self._actors, self._gateways, self._leaving = [], [], []
        self._retire(teams)

    def _has_room(self) -> bool:
        if self._may_wait_for_room or free_resources()["CPU"] >= CORES["actor"]:
            return True
        self._wanted.tell_of_shortage(len(self._actors))
        return False

    def _join(self) -> None:
        index = len(self._actors)
        first = self._first_incarnation + self._lives[index]
        self._actors.append(self._teams.actor(index, self._seed, first))
        self._actors[index].start()

    def _leave(self, team: Team) -> None:
        self._lives[len(self._actors)] += team.restarts + 1
        _ask_to_stop(team)
        self._leaving.append(_Leaver(team, team.restarts))

    def _retire(self, teams: Sequence[Team]) -> None:
        for team in teams:
            team.retire()
        self._left += teams


@dataclass
class _Leaver:
    """An actor that has been asked to stop."""

    team: Team
    restarts: int
    answers: int = 0  # since its work was done
    newest: Pulse | None = None

    def has_left(self) -> bool:
        """Whether all that it has done is counted, or it has died over it."""
        (pulse,) = self.team.pulses
        if _finished(self.team) and pulse is not self.newest:
            self.answers, self.newest = self.answers + 1, pulse
        return self.answers > _LAST_ANSWERS or self.team.restarts > self.restarts


def _ask_to_stop(team: Team) -> None:
    for process in team.processes:
        cast(RayProcess, process).actor.stop.remote()


def _finished(team: Team) -> bool:
    return all(cast(RayProcess, process).finished() for process in team.processes)
