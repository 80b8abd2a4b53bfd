import pytest

from learners.turns import PhaseTurns
from wm_distributed.api import DataSpec, Phase
from wm_distributed.errors import ConfigError

DATA = DataSpec(batch_size=4, length=1)


def phase(name: str, steps: int | None, first_cycle: int = 0) -> Phase:
    return Phase(name=name, data=DATA, steps=steps, first_cycle=first_cycle)


def test_phases_take_turns_for_ever_and_late_ones_join_in_later() -> None:
    turns = PhaseTurns([phase("a", 2), phase("b", 1, first_cycle=1)], repeat=True)
    names = []
    for _ in range(8):
        names.append(turns.phase.name)
        if turns.count():
            turns.advance()
    assert names == ["a", "a", "a", "a", "b", "a", "a", "b"]
    assert not turns.finished


def test_a_single_phase_without_repetition_is_finished_after_its_steps() -> None:
    turns = PhaseTurns([phase("only", 2)], repeat=False)
    assert [turns.count(), turns.count()] == [False, True]
    turns.advance()
    assert turns.finished


def test_turns_begin_with_the_first_cycle_in_which_a_phase_takes_part() -> None:
    turns = PhaseTurns([phase("b", 1, first_cycle=4), phase("a", 1, first_cycle=3)], repeat=True)
    assert (turns.cycle, turns.name) == (3, "a")
    turns.advance()
    assert (turns.cycle, turns.name) == (4, "b")


def test_turns_are_finished_when_no_phase_takes_part_any_more() -> None:
    brief = Phase(name="a", data=DATA, steps=1, first_cycle=1, num_cycles=1)
    later = Phase(name="b", data=DATA, steps=1, first_cycle=3, num_cycles=1)
    turns = PhaseTurns([brief, later], repeat=True)
    assert turns.name == "a"
    turns.advance()
    assert (turns.cycle, turns.name, turns.finished) == (3, "b", False)
    turns.advance()
    assert turns.finished


@pytest.mark.parametrize("kind", ["collection", "population"])
def test_a_phase_without_batches_is_refused(kind: str) -> None:
    wrong = Phase(name="other", data=None, kind=kind)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"'other' is of kind '{kind}'"):
        PhaseTurns([wrong], repeat=True)
