"""Runs the programs of docs/replay.md, one after the other."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "replay.md"


def test_the_programs_of_the_page_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    programs = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(programs) == 3
    statements = [
        line
        for line in programs[0].splitlines()
        if line.strip() and not line.startswith(("import", "from"))
    ]
    assert len(statements) <= 10
    names: dict[str, object] = {}
    for program in programs:
        exec(compile(program, PAGE.name, "exec"), names)
    stored = "StreamId(actor=0, incarnation=0, env=0) 32\n"
    assert capsys.readouterr().out == f"(16, 64, 64, 64, 3)\n{stored}"
