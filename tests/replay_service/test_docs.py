"""Runs the programs of docs/replay.md, one after the other."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "replay.md"


def test_the_programs_of_the_page_run(capsys: pytest.CaptureFixture[str]) -> None:
    programs = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(programs) == 2
    statements = [
        line
        for line in programs[0].splitlines()
        if line.strip() and not line.startswith(("import", "from"))
    ]
    assert len(statements) <= 10
    names: dict[str, object] = {}
    for program in programs:
        exec(compile(program, PAGE.name, "exec"), names)
    assert capsys.readouterr().out == "(16, 64, 64, 64, 3)\n"
