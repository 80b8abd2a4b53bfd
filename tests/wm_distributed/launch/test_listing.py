import pytest

from wm_distributed.launch.listing import show_names
from wm_distributed.launch.presets import all_families


def test_everything_that_can_be_named_on_the_command_line_is_listed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert show_names() == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    for family in all_families():
        assert f"\n{family.name}\n    {family.status[:50]}" in printed
        for name, function in family.presets.items():
            (line,) = [line for line in printed.splitlines() if line.startswith(f"{name} ")]
            assert function().env.id in line
    for pattern in ("toy/catch", "atari/<game>", "gym/<registered id>", "car_racing"):
        assert pattern in printed
