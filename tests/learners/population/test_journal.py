import json
import math
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import pytest

from learners.population import Archipelago, ResultJournal
from wm_distributed.errors import CheckpointError, RunDirError
from wm_distributed.types import Array, CandidateTask, EpisodeResult

Make = Callable[..., Archipelago]
Answer = Callable[[CandidateTask, Array], EpisodeResult]


Open = Callable[[], ResultJournal]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.jsonl"


@pytest.fixture
def open_journal(path: Path) -> Iterator[Open]:
    """Opens the journal, again and again; closes all of them at the end."""
    with ExitStack() as stack:

        def open_one() -> ResultJournal:
            journal = ResultJournal(path)
            stack.callback(journal.close)
            return journal

        yield open_one


def run(search: Archipelago, journal: ResultJournal, answer: Answer, results: int) -> None:
    """Answers so many tasks, one at a time."""
    for _ in range(results):
        task, params = search.ask()[0]
        result = answer(task, params)
        assert search.tell(task, result)
        journal.append([(task, result)])


def asked(search: Archipelago) -> list[tuple[CandidateTask, list[float]]]:
    return [(task, params.tolist()) for task, params in search.ask()]


def test_all_results_bring_a_new_search_to_the_same_place(
    path: Path, open_journal: Open, make_search: Make, answer: Answer
) -> None:
    search, journal = make_search(), open_journal()
    run(search, journal, answer, 100)  # six generations and a part, one evaluation
    resumed = make_search()
    assert open_journal().replay(resumed) == 100
    assert asked(resumed) == asked(search)
    assert resumed.evaluations == search.evaluations
    assert resumed.stats() == search.stats()


def test_results_after_a_saved_state_complete_it(
    path: Path, open_journal: Open, make_search: Make, answer: Answer
) -> None:
    search, journal = make_search(), open_journal()
    run(search, journal, answer, 37)
    state, size = search.state_dict(), journal.sync()
    run(search, journal, answer, 41)
    for begin, news in ((size, 41), (0, 41), (10**9, 41)):  # earlier results change nothing
        resumed = make_search()
        resumed.load_state_dict(state)
        assert open_journal().replay(resumed, begin) == news
        assert asked(resumed) == asked(search)


def test_every_number_comes_back_exactly(open_journal: Open) -> None:
    journal = open_journal()
    returns = [0.1 + 0.2, -1e-300, math.inf, math.nan]
    task = CandidateTask(0, 1, -1, 2, 2**31 - 1)
    journal.append((task, EpisodeResult(value, 7, task.seed)) for value in returns)
    told: list[tuple[CandidateTask, EpisodeResult]] = []

    class Listener:
        def tell(self, task: CandidateTask, result: EpisodeResult) -> bool:
            told.append((task, result))
            return True

    assert journal.replay(Listener()) == 4  # type: ignore[arg-type]
    assert [told_task for told_task, _ in told] == [task] * 4
    assert [repr(result.episode_return) for _, result in told] == [repr(value) for value in returns]
    assert {(result.length, result.seed) for _, result in told} == {(7, task.seed)}


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_half_written_line_is_cut_off(
    cut: int,
    path: Path,
    open_journal: Open,
    make_search: Make,
    answer: Answer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    search, journal = make_search(), open_journal()
    run(search, journal, answer, 5)
    path.write_bytes(path.read_bytes()[:-cut])
    resumed, journal = make_search(), open_journal()
    assert journal.replay(resumed) == 4
    assert "half-written line" in caplog.text
    run(resumed, journal, answer, 3)
    assert open_journal().replay(make_search()) == 7


def test_damage_in_the_middle_is_an_error_with_its_place(
    path: Path, open_journal: Open, make_search: Make, answer: Answer
) -> None:
    search, journal = make_search(), open_journal()
    run(search, journal, answer, 5)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"-", b"+", 1)
    path.write_bytes(b"".join(lines))
    with pytest.raises(CheckpointError, match=r"results.jsonl, result 3 after byte 0 is damaged"):
        open_journal().replay(make_search())


def test_a_line_is_readable_by_others(path: Path, open_journal: Open) -> None:
    open_journal().append([(CandidateTask(1, 2, 3, 4, 5), EpisodeResult(6.5, 7))])
    checksum, _, text = path.read_text().strip().partition(" ")
    assert json.loads(text) == [1, 2, 3, 4, 5, 6.5, 7]
    assert int(checksum, 16) == zlib.crc32(text.encode())


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, open_journal: Open) -> None:
    with pytest.raises(RunDirError, match=r"cannot write the results of the search to .*absent"):
        ResultJournal(tmp_path / "absent" / "results.jsonl")
    journal = open_journal()
    with open("/dev/full", "wb", buffering=0) as full, mock.patch.object(journal, "_file", full):
        with pytest.raises(RunDirError, match="No space left"):
            journal.append([(CandidateTask(0, 0, 0, 0, 0), EpisodeResult(1.0, 1))])
