"""Pipelines of the smallest World Models run, in this process."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from wm_distributed.config import PipelineConfig, RunConfig
from wm_distributed.errors import CheckpointError, ConfigError, RunDirError, UnknownNameError
from wm_distributed.families.world_models.config import DreamConfig
from wm_distributed.families.world_models.presets import debug
from wm_distributed.launch.experience import survey
from wm_distributed.launch.pipeline import PipelineRuntime
from wm_distributed.launch.presets import load_preset
from wm_distributed.launch.run_dir import RunDir
from wm_distributed.launch.runtime import FinalEvaluation, RunStatus, make_runtime

torch.set_num_threads(1)
COLLECTED = 200  # by two environments, in chunks of ten steps
TRAINED = 14  # six steps of V and eight of M


def small(**pipeline: Any) -> RunConfig[Any]:
    run = debug()
    return replace(
        run,
        runtime=replace(run.runtime, kind="inline"),
        pipeline=PipelineConfig(**pipeline),
    )


def begin(path: Path, config: RunConfig[Any], *, resume: bool = False) -> PipelineRuntime:
    path.mkdir(exist_ok=True)
    RunDir(path).save_config(config)
    runtime = make_runtime(config, path, resume=resume)
    assert isinstance(runtime, PipelineRuntime)
    runtime.start()
    return runtime


def run(
    path: Path, config: RunConfig[Any], *, resume: bool = False
) -> tuple[list[RunStatus], FinalEvaluation]:
    """All statuses and the result of a run to its end."""
    runtime = begin(path, config, resume=resume)
    statuses = [runtime.poll()]
    while not statuses[-1].finished:
        statuses.append(runtime.poll())
    final = runtime.evaluate_final(2)
    runtime.stop(checkpoint=True)
    return statuses, final


def stop_in(path: Path, config: RunConfig[Any], phase: str, monkeypatch: Any) -> RunStatus:
    """Runs until a phase is under way, and leaves it there without a checkpoint of that moment."""
    for module in ("inline_runtime", "search_runtime"):
        monkeypatch.setattr(f"wm_distributed.launch.{module}._POLL_SECONDS", 1e-4)
    runtime = begin(path, config)
    while (status := runtime.poll()).phase != phase:
        assert not status.finished
    runtime.stop(checkpoint=phase in ("memory", "controller"))
    monkeypatch.undo()
    return status


def controller(path: Path) -> Any:
    return np.load(path / "search" / "solution.npy")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[RunStatus], Any]:
    path = tmp_path_factory.mktemp("whole") / "run"
    statuses, final = run(path, small())
    return path, statuses, final


def test_a_pipeline_runs_all_its_phases_and_stores_what_the_search_found(whole: Any) -> None:
    path, statuses, final = whole
    assert statuses[-1].phase == "controller"
    assert (statuses[-1].train_steps, final.agent.train_steps) == (TRAINED, TRAINED)
    decisions = statuses[-1].metrics["search/decisions"]
    assert statuses[-1].env_steps == COLLECTED + decisions
    assert all(e.env_steps > COLLECTED for s in statuses for e in s.evaluations)
    assert survey(path / "experience").steps == COLLECTED
    runtime = begin(path, small(), resume=True)
    stored = runtime._load()[0].controller()
    np.testing.assert_array_equal(stored, controller(path).astype(np.float32))
    assert np.any(stored)


def test_a_finished_pipeline_is_evaluated_without_running_anything(whole: Any) -> None:
    path, _, final = whole
    again = begin(path, small(), resume=True).evaluate_final(2)
    assert again.agent.train_steps == TRAINED
    assert len(again.agent.results) == len(final.agent.results) == 2


@pytest.mark.parametrize("phase", ["collect", "vision", "memory", "controller"])
def test_a_run_stopped_in_any_phase_is_resumed_there(
    phase: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    stopped = stop_in(path, small(), phase, monkeypatch)
    collected = survey(path / "experience").steps
    statuses, _ = run(path, small(), resume=True)
    assert statuses[-1].train_steps == TRAINED
    assert survey(path / "experience").steps == COLLECTED
    if phase == "collect":
        assert 0 < stopped.env_steps == collected < COLLECTED, stopped
        assert len(list((path / "experience").iterdir())) == 2  # of both incarnations
    else:
        assert collected == COLLECTED
    if phase == "controller":
        assert {status.phase for status in statuses} == {"controller"}


def test_a_resumed_run_does_not_train_again_what_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    stopped = stop_in(path, small(), "memory", monkeypatch)
    monkeypatch.setattr("wm_distributed.launch.inline_runtime._POLL_SECONDS", 1e-4)
    runtime = begin(path, small(), resume=True)
    phases = [runtime.poll().phase for _ in range(5)]
    runtime.stop(checkpoint=False)
    assert stopped.train_steps >= 6
    assert "vision" not in phases
    assert phases[0] == "encode"  # replay was filled anew


def test_phases_are_run_alone_from_an_earlier_run(whole: Any, tmp_path: Path) -> None:
    source, _, _ = whole
    path = tmp_path / "run"
    statuses, _ = run(path, small(phases=("memory", "controller"), source=str(source)))
    assert {status.phase for status in statuses} <= {"encode", "memory", "controller"}
    assert statuses[-1].train_steps == TRAINED + 8
    assert not (path / "experience").exists()
    further = small(phases=("memory",), source=str(path))  # whose experience is its source's
    statuses, _ = run(tmp_path / "further", further)
    assert statuses[-1].train_steps == TRAINED + 16
    assert statuses[-1].reason == "all phases are done"


def test_a_controller_of_another_shape_uses_the_vision_and_memory_of_an_earlier_run(
    whole: Any, tmp_path: Path
) -> None:
    config = small(phases=("controller",), source=str(whole[0]))
    z_only = replace(config.model, controller=replace(config.model.controller, inputs="z"))
    path = tmp_path / "run"
    statuses, final = run(path, replace(config, model=z_only))
    assert {status.phase for status in statuses} == {"controller"}
    assert final.agent.train_steps == TRAINED
    assert controller(path).size < controller(whole[0]).size
    theirs, ours = (
        begin(folder, setting, resume=True)._load()[0].model.state_dict()
        for folder, setting in ((whole[0], small()), (path, replace(config, model=z_only)))
    )
    for name in ("acting.memory.weight", "decoder.linear.weight"):
        assert torch.equal(theirs[name], ours[name]), name


def damage(source: Path, place: float) -> str:
    """Spoils a byte of what the first actor of a run collected; the name of the file."""
    path = min((source / "experience").glob("*/*.log"))
    data = bytearray(path.read_bytes().rstrip(b"\0"))
    data[int(place * len(data))] ^= 1
    path.write_bytes(data)
    return str(path)


def test_a_damaged_byte_costs_a_chunk_which_is_collected_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "run"
    stop_in(path, small(), "vision", monkeypatch)
    name = damage(path, 0.5)
    assert survey(path / "experience").steps == COLLECTED - 10
    statuses, _ = run(path, small(), resume=True)
    assert f"1 damaged places, left out:\n{name}: " in caplog.text
    assert statuses[-1].train_steps == TRAINED
    assert survey(path / "experience").steps >= COLLECTED


def test_phases_train_on_what_is_whole_of_an_earlier_run(
    whole: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = tmp_path / "source"
    shutil.copytree(whole[0], source)
    name = damage(source, 0.5)
    config = small(phases=("memory",), source=str(source))
    statuses, _ = run(tmp_path / "run", config)
    assert f"1 damaged places, left out:\n{name}: " in caplog.text
    assert statuses[-1].reason == "all phases are done"
    assert statuses[-1].env_steps == COLLECTED - 10


def test_an_earlier_run_of_which_too_little_is_whole_is_refused_at_the_start(
    whole: Any, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(whole[0], source)
    (path,) = (source / "experience").glob("*/*.log")
    path.write_bytes(path.read_bytes()[:-10].replace(b"\xf5wmr", b"none"))
    config = small(phases=("memory",), source=str(source))
    with pytest.raises(
        ConfigError, match=r"(?s)expected 7 whole steps .* in a row, found 0.*Damaged.*1\.log: "
    ):
        refused(tmp_path, config)


def test_a_collection_is_run_alone(tmp_path: Path) -> None:
    statuses, final = run(tmp_path, small(phases=("collect",)))
    assert (statuses[-1].env_steps, statuses[-1].train_steps) == (COLLECTED, 0)
    assert statuses[-1].reason == "all phases are done"
    assert survey(tmp_path / "experience").steps == COLLECTED
    assert len(final.agent.results) == 2


def test_a_search_alone_is_not_refused_for_a_replay_that_it_does_not_fill(
    whole: Any, tmp_path: Path
) -> None:
    path, *_ = whole
    config = small(phases=("controller",), source=str(path))
    replay = replace(config.replay, capacity_steps=10**12)
    make_runtime(replace(config, replay=replay), tmp_path, resume=False)
    with pytest.raises(ConfigError, match="full replay takes"):
        make_runtime(replace(small(), replay=replay), tmp_path, resume=False)


def test_a_second_round_collects_more_with_the_controller_and_trains_on(tmp_path: Path) -> None:
    statuses, _ = run(tmp_path / "run", small(rounds=2))
    assert statuses[-1].train_steps == 2 * TRAINED
    assert statuses[-1].phase == "controller-2"
    assert survey(tmp_path / "run" / "experience").steps == 2 * COLLECTED
    assert (tmp_path / "run" / "search-2" / "solution.npy").exists()


def refused(tmp_path: Path, config: RunConfig[Any]) -> None:
    (tmp_path / "new").mkdir()
    make_runtime(config, tmp_path / "new", resume=False)


def test_a_phase_without_its_input_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'memory' needs what 'collect', 'vision' would make"):
        refused(tmp_path, small(phases=("memory",)))


def test_an_unknown_phase_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean vision"):
        refused(tmp_path, small(phases=("vison",)))


def test_a_source_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="does not exist"):
        refused(tmp_path, small(phases=("memory",), source=str(tmp_path / "nowhere")))


def test_a_source_of_other_sizes_is_refused_with_both(whole: Any, tmp_path: Path) -> None:
    config = small(phases=("memory",), source=str(whole[0]))
    larger = replace(config.model, vision=replace(config.model.vision, latent_size=6))
    with pytest.raises(CheckpointError, match=r"model\.vision\.latent_size 4, 6"):
        refused(tmp_path, replace(config, model=larger))


def test_a_source_on_another_environment_is_refused(whole: Any, tmp_path: Path) -> None:
    config = small(phases=("memory",), source=str(whole[0]))
    env = replace(config.env, id="toy/nav")
    with pytest.raises(ConfigError, match="toy/catch, this one is of world_models on toy/nav"):
        refused(tmp_path, replace(config, env=env))


def test_a_source_that_has_not_finished_a_phase_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small()
    steps = replace(config.model.memory, steps=1_000)
    endless = replace(config, model=replace(config.model, memory=steps))
    stop_in(tmp_path / "earlier", endless, "memory", monkeypatch)
    only = small(phases=("controller",), source=str(tmp_path / "earlier"))
    with pytest.raises(ConfigError, match=r"'memory' is left out, but .*earlier has not finished"):
        refused(tmp_path, only)


def test_a_source_that_was_never_to_run_a_phase_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "earlier", small(phases=("collect",)))
    only = small(phases=("controller",), source=str(tmp_path / "earlier"))
    with pytest.raises(ConfigError, match=r"'vision' is left out, but .*earlier has not finished"):
        refused(tmp_path, only)


def test_a_collection_too_short_for_its_sequences_is_refused(tmp_path: Path) -> None:
    config = small()
    with pytest.raises(ConfigError, match="collects 12 steps, 6 from each of 2 environments"):
        refused(tmp_path, replace(config, model=replace(config.model, collect_steps=12)))


# ------------------------------------------------------------------------- searches in the dream


def dreaming(where: str = "dream", **pipeline: Any) -> RunConfig[Any]:
    run = small(**pipeline)
    model = replace(run.model, dream=DreamConfig(max_steps=20))
    search = replace(run.search, where=where, max_episodes=24, dreams_per_evaluator=8)
    return replace(run, model=model, search=search)


@pytest.fixture(scope="module")
def dreamed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[RunStatus], Any]:
    path = tmp_path_factory.mktemp("dreamed") / "run"
    statuses, final = run(path, dreaming())
    return path, statuses, final


def test_a_controller_is_searched_in_the_dream_and_judged_in_the_environment(dreamed: Any) -> None:
    path, statuses, final = dreamed
    evaluations = [evaluation for status in statuses for evaluation in status.evaluations]
    assert [evaluation.generation for evaluation in evaluations] == [2, 4, 6]
    outcomes = {-1.0, 0.0, 1.0}  # of a caught or a missed ball; predictions hit none of them
    for evaluation in evaluations:
        assert {result.episode_return for result in evaluation.results} <= outcomes
        assert len(evaluation.dreamed) == len(evaluation.results) == 2
        assert not set(evaluation.dreamed) & outcomes
    candidates = [record.return_mean for status in statuses for record in status.generations]
    assert len(candidates) == 6
    assert not set(candidates) & outcomes
    assert {result.episode_return for result in final.agent.results} <= outcomes
    assert np.any(controller(path))


def test_a_search_in_the_dream_goes_on_where_it_was_stopped(
    dreamed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    stop_in(path, dreaming(), "controller", monkeypatch)
    journal = path / "search" / "results.jsonl"
    before = journal.read_text()
    run(path, dreaming(), resume=True)
    assert journal.read_text().startswith(before)

    def results(folder: Path) -> dict[Any, Any]:
        """Equal seeds and equal models give equal results; the order may differ."""
        lines = (folder / "search" / "results.jsonl").read_text().splitlines()
        rows = [json.loads(line.partition(" ")[2]) for line in lines]
        return {tuple(row[:5]): row[5:] for row in rows}

    assert results(path) == results(dreamed[0])


def test_a_search_is_not_resumed_in_another_dream(dreamed: Any) -> None:
    config = dreaming()
    hotter = replace(config.model, dream=DreamConfig(max_steps=20, temperature=1.3))
    for other in (replace(config, model=hotter), dreaming("env")):
        runtime = begin(dreamed[0], other, resume=True)
        with pytest.raises(CheckpointError, match="another dream"):
            runtime.poll()
        runtime.stop(checkpoint=False)


def test_a_dream_without_rewards_is_refused_before_anything_starts(tmp_path: Path) -> None:
    config = dreaming()
    blind = replace(config.model, memory=replace(config.model.memory, reward_scale=0.0))
    with pytest.raises(ConfigError, match="M learns no rewards"):
        refused(tmp_path, replace(config, model=blind))


def test_a_family_without_a_dream_is_refused(tmp_path: Path) -> None:
    linear = load_preset("linear-debug")[0]
    config = replace(linear, search=replace(linear.search, where="dream"))
    with pytest.raises(ConfigError, match=r"'linear' has not got a dream .*build_dream"):
        refused(tmp_path, config)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_polls")
def test_a_pipeline_with_a_search_in_the_dream_runs_through_ray(tmp_path: Path) -> None:
    config = dreaming()
    config = replace(config, runtime=replace(config.runtime, kind="ray"))
    statuses, final = run(tmp_path / "run", config)
    roles = [{process.role for process in status.processes} for status in statuses]
    training = [number for number, status in enumerate(statuses) if status.train_steps]
    assert "actor" in roles[0]
    assert "search" in roles[-1]
    assert training
    assert "actor" not in roles[-1]
    assert (statuses[-1].train_steps, final.agent.train_steps) == (TRAINED, TRAINED)
    assert survey(tmp_path / "run" / "experience").steps == COLLECTED
    evaluations = [evaluation for status in statuses for evaluation in status.evaluations]
    assert evaluations
    for evaluation in evaluations:
        assert len(evaluation.dreamed) == len(evaluation.results) == 2  # judged in both
    assert len(final.agent.results) == 2
    assert np.any(controller(tmp_path / "run"))
