from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from learners.population import Archipelago
from learners.population.repetition import WINDOW, Repetition, estimate_reliability
from wm_distributed.errors import ConfigError
from wm_distributed.search_config import SearchConfig
from wm_distributed.types import EpisodeResult

# ----------------------------------------------------------------------------------- the estimate


def test_reliability_is_one_less_the_ratio_of_the_mean_squares() -> None:
    """Candidates' means are 2, 6 and 5.5: between them 2 (2.5² + 1.5² + 1²) / 2 = 9.5. Episodes'
    means are 3 and 6, which leaves ±0.5, ±0.5 and ±1: (4 / 4 + 2) / 2 = 1.5."""
    returns = np.array([[1.0, 3.0], [5.0, 7.0], [3.0, 8.0]])
    assert estimate_reliability(returns) == pytest.approx(1 - 1.5 / 9.5)


def test_hard_and_easy_episodes_are_no_noise() -> None:
    returns = np.array([[1.0, 3.0], [5.0, 7.0], [3.0, 8.0]])
    alike = estimate_reliability(returns + np.array([1000.0, -20.0]))
    assert alike == pytest.approx(estimate_reliability(returns))
    assert estimate_reliability(np.array([[1.0, 900.0], [2.0, 901.0]])) == pytest.approx(1)


def test_noise_beyond_the_differences_is_no_reliability() -> None:
    assert estimate_reliability(np.array([[0.0, 4.0], [4.0, 1.0]])) == 0


@pytest.mark.parametrize("returns", [[[1.0], [2.0]], [[1.0, 2.0]], [[1.0, 3.0], [2.0, 2.0]]])
def test_nothing_is_said_of_one_episode_one_candidate_or_equal_means(
    returns: list[list[float]],
) -> None:
    assert estimate_reliability(np.array(returns)) is None


def test_reliability_is_how_means_on_other_episodes_would_correlate() -> None:
    rng = np.random.default_rng(0)
    worth = rng.normal(scale=2.0, size=(20_000, 1))
    first, second = (worth + rng.normal(scale=3.0, size=(20_000, 4)) for _ in range(2))
    expected = 4 / (4 + 9 / 4)
    assert estimate_reliability(first) == pytest.approx(expected, abs=0.01)
    correlation = np.corrcoef(first.mean(axis=1), second.mean(axis=1))[0, 1]
    assert correlation == pytest.approx(expected, abs=0.01)


# ----------------------------------------------------------------------------------- the doubling


def test_episodes_are_doubled_after_a_window_of_low_reliabilities() -> None:
    repetition = Repetition(2, 9)
    expected = [2] * (WINDOW - 1) + [4] * WINDOW + [8] * (WINDOW + 2)  # 16 would be too many
    for episodes in expected:
        repetition.take(0.1)
        assert repetition.episodes == episodes


def test_it_is_the_average_of_the_last_generations_that_counts() -> None:
    repetition = Repetition(2, 16)
    for reliability in (0.9, 0.4, 0.1, 0.3, 0.3, 0.6):
        repetition.take(reliability)
        assert repetition.episodes == 2
    repetition.take(None)  # says nothing
    assert repetition.episodes == 2
    repetition.take(0.3)  # 0.1, 0.3, 0.3, 0.6 and 0.3: 0.32
    assert repetition.episodes == 4


def test_without_a_limit_nothing_is_doubled() -> None:
    repetition = Repetition(3, None)
    for _ in range(3 * WINDOW):
        repetition.take(0.0)
    assert repetition.episodes == 3


@pytest.mark.parametrize(
    ("episodes", "up_to", "named"),
    [(4, 2, "at least search.episodes, 4, got 2"), (1, 8, "search.episodes of at least 2")],
)
def test_limits_that_cannot_be_are_refused(episodes: int, up_to: int, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        SearchConfig(episodes=episodes, episodes_up_to=up_to)
    assert SearchConfig(episodes=1, episodes_up_to=1).episodes_up_to == 1


# ------------------------------------------------------------------------------------ what it buys


def test_a_noisy_sphere_is_solved_better_than_with_a_fixed_number_of_episodes(
    make_search: Callable[..., Archipelago],
) -> None:
    """After as many evaluations: few episodes have come to rest, many have only begun."""

    def distance(seed: int, **settings: Any) -> float:
        search = make_search(
            10, seed, population_size=(10,), held_out_every=0, max_episodes=1_000, **settings
        )
        while not search.should_stop():
            for task, params in search.ask():
                noise = 5 * np.random.default_rng([task.seed, task.candidate]).normal()
                search.tell(task, EpisodeResult(noise - ((params - 1) ** 2).sum(), 1))
        return float(((search.mean() - 1) ** 2).sum())

    few, many, growing = (
        np.mean([distance(seed, **settings) for seed in range(5)])
        for settings in ({"episodes": 2}, {"episodes": 16}, {"episodes_up_to": 16})
    )
    assert growing < 0.8 * min(few, many)
