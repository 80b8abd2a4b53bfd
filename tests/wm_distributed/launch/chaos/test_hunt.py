import itertools
import subprocess
import sys
from pathlib import Path

import pytest

from wm_distributed.launch.chaos.command import hunted_config
from wm_distributed.launch.chaos.hunt import ROLES, Hunt
from wm_distributed.launch.run_dir import RunDir


def victims(run_dir: RunDir, seed: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Whom a hunt of two packs kills, in a run in which every wait ends at once."""
    run_dir.save_config(hunted_config(None))
    hunt = Hunt(run_dir, seed)
    killed: list[str] = []
    clock = itertools.count()
    monkeypatch.setattr("wm_distributed.launch.chaos.hunt.time.monotonic", lambda: next(clock))
    monkeypatch.setattr(hunt, "_kill", killed.append)
    monkeypatch.setattr(hunt, "_until", lambda *_: None)
    monkeypatch.setattr(hunt, "_status", {"train_steps": 0})
    hunt.for_seconds(len(ROLES) + 2.0, every=1.0)
    return killed


def test_every_role_dies_once_before_any_dies_again(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = victims(run_dir, 0, monkeypatch)
    assert len(killed) % len(ROLES) == 0
    assert killed
    for first in range(0, len(killed), len(ROLES)):
        assert sorted(killed[first : first + len(ROLES)]) == sorted(ROLES)


def test_the_order_follows_from_the_seed(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    orders = [victims(run_dir, seed, monkeypatch) for seed in (0, 0, 1)]
    assert orders[0] == orders[1]
    assert orders[0][: len(ROLES)] != orders[2][: len(ROLES)]


@pytest.mark.parametrize(("share", "state"), [(1.0, "T"), (0.0, "Z")])
def test_a_victim_is_stopped_or_killed(share: float, state: str, run_dir: RunDir) -> None:
    hunt = Hunt(run_dir, 0, share)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as victim:
        process = {"role": "actor", "index": 0, "pid": victim.pid, "health": "running"}
        hunt._status = {"processes": [process]}
        hunt._until = lambda condition, *_: condition(hunt._status)  # type: ignore[method-assign]
        hunt._kill("actor")
        while (found := state_of(victim.pid)) in "RSD":
            pass
        victim.kill()
    assert found == state
    assert [kill.stopped for kill in hunt.kills] == [bool(share)]


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
