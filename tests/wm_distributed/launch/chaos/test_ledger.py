from pathlib import Path

from wm_distributed.launch.chaos.ledger import Ledger, read_ledgers
from wm_distributed.types import StreamId

FIRST, SECOND = StreamId(0, 0, 0), StreamId(2**32, 3, 1)


def test_what_several_senders_have_entered_is_read_together(tmp_path: Path) -> None:
    Ledger(tmp_path)  # one that was never told anything
    one, other = Ledger(tmp_path), Ledger(tmp_path)
    one.enter([(FIRST, 0, 16), (SECOND, 0, 16)])
    one.enter([(FIRST, 1, 4)])
    other.enter([(FIRST, 0, 16)])
    assert read_ledgers(tmp_path) == {
        (FIRST, 0, 16): 2,
        (SECOND, 0, 16): 1,
        (FIRST, 1, 4): 1,
    }


def test_a_line_that_a_death_cut_short_does_not_count(tmp_path: Path) -> None:
    Ledger(tmp_path).enter([(FIRST, 0, 16)])
    (file,) = tmp_path.iterdir()
    with file.open("a") as cut:
        cut.write("0 0 0 1 1")  # of 16 steps
    assert read_ledgers(tmp_path) == {(FIRST, 0, 16): 1}
