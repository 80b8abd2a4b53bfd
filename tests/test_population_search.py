"""The whole search on a real environment: search, server and evaluators."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np

from actors.candidate_evaluation import CandidateEvaluator
from actors.episode_slots import EpisodeSlots
from learners.population import Archipelago
from learners.search_server import SearchServer
from wm_distributed.config import EnvConfig
from wm_distributed.envs import env_spaces, make_vector_env
from wm_distributed.search_config import SearchConfig
from wm_distributed.types import ActMode, Array, Columns, EnvStep, Weights

ENV = EnvConfig(id="gym/CartPole-v1", max_episode_steps=200)
SPACES = env_spaces(ENV)


class Linear:
    """Pushes right where the weighted observation is positive."""

    version = 0
    num_parameters = 4

    def __init__(self, num_envs: int) -> None:
        self._params = np.zeros((num_envs, 4))

    def assign(self, env: int, parameters: Array, seed: int) -> None:
        self._params[env] = parameters

    def initial_state(self, num_envs: int) -> Any:
        return None

    def act(self, state: Any, step: EnvStep, mode: ActMode) -> tuple[Array, Any, Columns]:
        return ((step.obs["vector"] * self._params).sum(axis=1) > 0).astype(np.int32), None, {}

    def load_weights(self, weights: Weights) -> None:
        raise NotImplementedError


class Shuffled(Linear):
    """Negative control: which parameters act has nothing to do with which are scored."""

    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs)
        self._chance = random.Random(0)

    def assign(self, env: int, parameters: Array, seed: int) -> None:
        numbers = np.random.default_rng(self._chance.randrange(2**31)).normal(size=4)
        super().assign(env, numbers * np.abs(parameters).mean(), seed)


def make_server() -> SearchServer:
    config = SearchConfig(
        population_size=(8,),
        sigma=(0.5,),
        episodes=2,
        held_out_every=4,
        held_out_episodes=8,
        max_episodes=8 * 2 * 8,
    )
    return SearchServer(Archipelago(config, np.zeros(4), seed=7), lease_seconds=100.0)


def make_evaluator(num_slots: int, policy: type[Linear] = Linear) -> CandidateEvaluator:
    slots = EpisodeSlots(lambda seed: make_vector_env(ENV, 1, seed), num_slots, SPACES)
    return CandidateEvaluator(slots, policy(num_slots))


def outcome(server: SearchServer) -> Mapping[str, Any]:
    island = server.state_dict()["search"]["islands"][0]
    return {name: island[name] for name in ("generations", "evaluations")}


def test_it_learns_to_balance_a_pole() -> None:
    server, evaluator = make_server(), make_evaluator(8)
    while not server.should_stop():
        evaluator.work(server, "a")
    assert server.stats()["search/best_mean"] >= 190  # of 200; random actions: about 22
    control, evaluator = make_server(), make_evaluator(8, Shuffled)
    while not control.should_stop():
        evaluator.work(control, "a")
    assert control.stats()["search/best_mean"] < 100


def test_evaluators_that_come_and_go_change_nothing() -> None:
    """One alone, against evaluators of several sizes that are killed at random."""
    server, evaluator = make_server(), make_evaluator(8)
    while not server.should_stop():
        evaluator.work(server, "a")
    other, chance = make_server(), random.Random(3)
    evaluators = {name: make_evaluator(size) for name, size in (("a", 3), ("b", 5), ("c", 1))}
    killed = 0
    while not other.should_stop():
        name = chance.choice("abc")
        if chance.random() < 0.1:
            evaluators[name].close()
            evaluators[name] = make_evaluator(chance.randrange(1, 7))
            killed += other.release(name) > 0
        evaluators[name].work(other, name, backlog=chance.randrange(3))
    assert killed >= 5
    assert other.stats()["search/reissued_tasks"] > 5
    assert outcome(other) == outcome(server)
    assert np.array_equal(other.best(), server.best())
