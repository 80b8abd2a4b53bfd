"""What the documents show is true: their code runs, their commands parse, their links exist."""

import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from wm_distributed.launch.arguments import parse_train
from wm_distributed.launch.cli import COMMANDS, main
from wm_distributed.launch.presets import load_preset
from wm_distributed.launch.run_dir import read_json, read_jsonl

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A new current directory whose modules can be imported, and are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) == str(tmp_path / f"{name}.py"):
            del sys.modules[name]


def write_code(page: str, path: Path) -> None:
    """Writes all the Python of a page into one file."""
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(), re.M | re.S)
    path.write_text("\n\n".join(blocks))


def commands(path: Path) -> Iterator[list[str]]:
    """The arguments of every command line of ours that a page shows in a block."""
    for line in re.findall(r"^(?:    )?wm-distributed (.*)$", path.read_text(), re.M):
        yield shlex.split(line, comments=True)


@pytest.mark.slow
def test_the_family_of_the_page_trains(elsewhere: Path) -> None:
    write_code("adding-a-family.md", elsewhere / "shooting.py")
    flags = "--runtime inline --run-dir run --stop.env-steps 600 --replay.min-size 300"
    evaluation = "--eval.every-env-steps 0 --eval.final-episodes 2 --learner.report-every-seconds 0"
    argv = ["train", "shooting:careful", *flags.split(), *evaluation.split()]
    assert main([*argv, "--model.candidates", "8", "--learner.num-threads", "1"]) == 0
    rows = read_jsonl(elsewhere / "run" / "metrics.jsonl")
    errors = [row["train/loss_obs"] for row in rows if "train/loss_obs" in row]
    assert errors[-1] < 0.1
    assert read_json(elsewhere / "run" / "summary.json")["eval_episodes"] == 2
    assert (elsewhere / "run" / "imagination.mp4").exists()


def test_the_environment_of_the_page_trains(elsewhere: Path) -> None:
    write_code("adding-an-environment.md", elsewhere / "corridor.py")
    (argv,) = commands(DOCS / "adding-an-environment.md")
    assert argv[:2] == ["train", "dreamer-debug"]
    flags = "--runtime inline --run-dir run --stop.env-steps 300 --eval.every-env-steps 0"
    assert main([*argv, *flags.split(), "--eval.final-episodes", "2"]) == 0
    summary = read_json(elsewhere / "run" / "summary.json")
    assert summary["env_id"] == "corridor:Corridor"
    assert (elsewhere / "run" / "agent.mp4").exists()


def test_the_gateway_s_client_is_fifty_lines_that_need_a_socket_and_msgpack_alone() -> None:
    (client, _) = re.findall(
        r"^```python\n(.*?)^```", (DOCS / "gateway.md").read_text(), re.M | re.S
    )
    assert len(client.splitlines()) <= 50
    imported = re.findall(r"^(?:import|from) (\S+)", client, re.M)
    assert imported == ["os", "socket", "struct", "msgpack"]


def test_the_metrics_page_is_in_step_with_the_table() -> None:
    spec = importlib.util.spec_from_file_location("make_metrics", DOCS / "make_metrics.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.PAGE.read_text(encoding="utf-8")
    assert module.renewed(page) == page, "run python docs/make_metrics.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_is_shown_can_be_given(page: Path, elsewhere: Path) -> None:
    write_code("adding-a-family.md", elsewhere / "shooting.py")
    for argv in commands(page):
        assert argv[0] in {*COMMANDS, "--help"}, argv
        if argv[0] in ("train", "search") and argv[1] != "PRESET" and "--help" not in argv:
            preset, family = load_preset(argv[1])
            parse_train(preset, family.config, argv[2:], "wm-distributed train")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_inside_the_repository_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith(("http://", "https://")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def mistakes() -> Iterator[tuple[list[str], str]]:
    """Commands that the README makes wrong on purpose, and what it says that they answer."""
    text = (ROOT / "README.md").read_text()
    for command, answer in re.findall(
        r"^\$ wm-distributed (.*)\n((?:.+\n)+?)(?=\n|```)", text, re.M
    ):
        yield shlex.split(command), answer


def words(text: str) -> str:
    """The text without lines drawn around it or broken by the width."""
    return " ".join(re.sub(r"[╭╮╰╯─│]", " ", text).split())


@pytest.mark.parametrize(("argv", "answer"), list(mistakes()))
def test_mistakes_are_answered_as_the_readme_says(
    argv: list[str], answer: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(argv)
    except SystemExit as ended:
        status = int(str(ended.code))
    assert status == 2
    printed = words(capsys.readouterr().err)
    for part in answer.split("…"):
        for line in part.splitlines() if "│" in part else [part]:
            assert words(line) in printed, printed


def test_the_readme_shows_mistakes() -> None:
    assert len(list(mistakes())) >= 4
