import pytest
import torch

from wm_distributed.launch.bench import dream


def test_a_dreamed_step_is_timed_on_one_thread_and_the_threads_are_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used: list[int] = []
    timed = dream._seconds_a_call

    def watched(function: object) -> float:
        used.append(torch.get_num_threads())
        return timed(function)  # type: ignore[arg-type]

    monkeypatch.setattr(dream, "_seconds_a_call", watched)
    monkeypatch.setattr(dream, "_BATCHES", (4,))
    monkeypatch.setattr(dream, "_EPISODE_STEPS", 3)
    monkeypatch.setattr(dream, "_STEPS", 5)
    threads = torch.get_num_threads()
    (result,) = dream.run()
    assert set(used) == {1}
    assert torch.get_num_threads() == threads
    assert result.value > 0
    assert result.passed is not None
