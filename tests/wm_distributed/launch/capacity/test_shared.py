import pytest
from simpy import Environment

from wm_distributed.launch.capacity.shared import Shared


def ends(capacity: float, *uses: tuple[float, float, float]) -> list[float]:
    """When each use is done, by its begin, amount and limit."""
    env = Environment()
    shared, done = Shared(env, capacity), [0.0] * len(uses)

    def user(index: int, begin: float, amount: float, limit: float):  # type: ignore[no-untyped-def]
        yield env.timeout(begin)
        yield shared.use(amount, limit)
        done[index] = env.now

    for index, use in enumerate(uses):
        env.process(user(index, *use))
    env.run()
    assert shared.served() == pytest.approx(sum(amount for _, amount, _ in uses))
    return done


def test_a_single_thread_takes_one_core() -> None:
    assert ends(2.0, (0.0, 3.0, 1.0)) == pytest.approx([3.0])


def test_four_threads_on_two_cores_take_twice_as_long() -> None:
    assert ends(2.0, *[(0.0, 1.0, 1.0)] * 4) == pytest.approx([2.0] * 4)


def test_whoever_comes_later_slows_the_others_down_from_then_on() -> None:
    # Alone for a second: one of two done. Then both at half the rate, until the first is done.
    assert ends(1.0, (0.0, 2.0, 1.0), (1.0, 2.0, 1.0)) == pytest.approx([3.0, 4.0])


def test_what_some_cannot_take_is_left_to_the_others() -> None:
    # Limits of 0.5 and 4 cores of 3: rates 0.5 and 2.5.
    assert ends(3.0, (0.0, 1.0, 0.5), (0.0, 5.0, 4.0)) == pytest.approx([2.0, 2.0])


def test_nothing_is_done_at_once() -> None:
    assert ends(1.0, (1.0, 0.0, 1.0)) == [1.0]
