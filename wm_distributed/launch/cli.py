"""The command line: ``wm-distributed COMMAND …``.

What a command needs is imported when it runs, so that help, lists and mistakes answer at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wm_distributed.config import RunConfig
from wm_distributed.errors import ConfigError, RunDirError, UnknownNameError, WmError
from wm_distributed.threads import thread_env

if TYPE_CHECKING:
    from wm_distributed.launch.run_dir import RunDir

PROG = "wm-distributed"
OK, BAD_INPUT, INTERRUPTED = 0, 2, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit status.

    0: done. 1: a benchmark missed its bound. 2: bad input, or a run that could not go on.
    130: ended by Ctrl-C.

    Args:
        argv: The arguments; None takes those of the process.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    # Before torch is imported: this process trains, too, in the inline runtime.
    os.environ.setdefault("OMP_WAIT_POLICY", thread_env(1)["OMP_WAIT_POLICY"])
    # Like `python -m`: families, presets and environments of one's own are found from here.
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        return _dispatch(arguments)
    except WmError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except BrokenPipeError:  # whoever read the output has seen enough, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_help())
        return OK if argv else BAD_INPUT
    if argv[0] not in COMMANDS:
        raise UnknownNameError("command", argv[0], COMMANDS)
    return COMMANDS[argv[0]](argv[1:])


def train(argv: list[str]) -> int:
    """Trains a preset in a new run directory."""
    return _begin("train", argv)


def search(argv: list[str]) -> int:
    """Searches for a policy's parameters by CMA-ES in a new run directory."""
    return _begin("search", argv)


def resume(argv: list[str]) -> int:
    """Goes on with a run from its newest checkpoint."""
    from wm_distributed.launch.arguments import parse_resume
    from wm_distributed.launch.run_dir import RunDir

    if not argv or argv[0].startswith("-"):
        return _explain("resume", "RUN_DIR [--field value …]", argv)
    run_dir = RunDir.open(Path(argv[0]))
    if not run_dir.can_be_resumed():
        raise RunDirError(
            f"{run_dir.path} has no checkpoint to go on from: begin anew with {PROG} train"
        )
    saved, family = run_dir.load_config()
    config = parse_resume(saved, family.config, argv[1:], f"{PROG} resume {argv[0]}")
    from wm_distributed.launch.preflight import refuse_other_groups

    refuse_other_groups(saved.learner, config.learner)
    return _run(config, run_dir, resume=True)


def evaluate(argv: list[str]) -> int:
    """Evaluates the best or the newest checkpoint of a run beside the random policy."""
    from wm_distributed.launch.eval_command import evaluate_run

    if not argv:
        return _explain("eval", "RUN_DIR [--episodes N] [--video]", argv)
    return _call(evaluate_run, "eval", argv)


def status(argv: list[str]) -> int:
    """Shows every process of a run, living or dead."""
    from wm_distributed.launch.status_file import show_status

    if not argv:
        return _explain("status", "RUN_DIR", argv)
    return _call(show_status, "status", argv)


def scale(argv: list[str]) -> int:
    """Changes the number of actors of a run while it runs."""
    from wm_distributed.launch.scale import scale_run

    if not argv:
        return _explain("scale", "RUN_DIR --actors N", argv)
    return _call(scale_run, "scale", argv)


def plan(argv: list[str]) -> int:
    """Forecasts what more actors, machines or GPUs would bring to a preset."""
    from wm_distributed.launch.capacity.command import plan_run
    from wm_distributed.launch.presets import load_preset

    if not argv or argv[0].startswith("-"):
        return _explain("plan", "PRESET [--actors 1 2 4 …] [--gpus N] [--field value …]", argv)
    preset, _ = load_preset(argv[0])
    return plan_run(preset, argv[1:], f"{PROG} plan {argv[0]}")


def list_names(argv: list[str]) -> int:
    """Lists families, presets and environments."""
    from wm_distributed.launch.listing import show_names

    return _call(show_names, "list", argv)


def bench(argv: list[str]) -> int:
    """Measures a part of the system against a bound of this machine."""
    from wm_distributed.launch.bench_command import run_benchmark

    if not argv:
        return _explain("bench", "NAME [--json FILE] [--check]", argv)
    if argv[0] == "chaos":
        from wm_distributed.launch.chaos.command import run_chaos

        return _call(run_chaos, "bench chaos", argv[1:])
    return _call(run_benchmark, "bench", argv)


def replay(argv: list[str]) -> int:
    """Inspects, exports and imports what a run's replay has stored."""
    from wm_distributed.launch.replay_command import ACTIONS

    if not argv or argv[0] in ("-h", "--help"):
        return _explain("replay", f"{'|'.join(ACTIONS)} RUN_DIR …", argv)
    if argv[0] not in ACTIONS:
        raise UnknownNameError("action of replay", argv[0], ACTIONS)
    return _call(ACTIONS[argv[0]], f"replay {argv[0]}", argv[1:])


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train,
    "search": search,
    "resume": resume,
    "eval": evaluate,
    "status": status,
    "scale": scale,
    "plan": plan,
    "list": list_names,
    "replay": replay,
    "bench": bench,
}


def _help() -> str:
    lines = [f"usage: {PROG} COMMAND …", "", "Trains world models on Ray.", ""]
    for name, command in COMMANDS.items():
        lines.append(f"  {name:8} {(command.__doc__ or '').splitlines()[0]}")
    lines += [
        "",
        "A first run, about ten minutes on two CPU cores:",
        f"  {PROG} train dreamer-cartpole",
        "",
        f"Each command explains itself: {PROG} train dreamer-cartpole --help",
    ]
    return "\n".join(lines)


def _explain(command: str, usage: str, argv: list[str]) -> int:
    """Prints how a command is used that was given no name, with the names that there are."""
    kind, names = _names(command)
    print(f"usage: {PROG} {command} {usage}\n\n{COMMANDS[command].__doc__}\n")
    print(f"{kind}:\n  " + "\n  ".join(names or ["none yet"]))
    if command in ("train", "search"):
        print(f"\nEvery field of a preset can be set: {PROG} {command} {names[0]} --help")
    return OK if argv and argv[0] in ("-h", "--help") else BAD_INPUT


def _names(command: str) -> tuple[str, list[str]]:
    """What a command can be given: its kind, and the names."""
    if command in ("train", "search", "plan"):
        from wm_distributed.launch.presets import all_families, is_search

        presets = [item for family in all_families() for item in family.presets.items()]
        searches = command == "search"
        return "presets", [name for name, make in presets if not searches or is_search(make())]
    if command == "bench":
        from wm_distributed.launch.bench import benchmark_names

        return "benchmarks", [*benchmark_names(), "chaos"]
    from wm_distributed.launch.run_dir import RUNS, newest_runs

    return "newest runs", [str(path) for path in newest_runs(RUNS, 10)]


def _call(function: Callable[..., int], command: str, argv: list[str]) -> int:
    """Calls a function whose parameters are the command's flags."""
    import tyro

    from wm_distributed.launch.arguments import parse

    # A switch of a command needs no opposite.
    return parse(function, argv, prog=f"{PROG} {command}", config=(tyro.conf.FlagCreatePairsOff,))


def _begin(command: str, argv: list[str]) -> int:
    """Begins a run of a preset; ``search`` takes those that are nothing else."""
    from wm_distributed.launch.arguments import parse_train
    from wm_distributed.launch.presets import is_search, load_preset
    from wm_distributed.launch.run_dir import RunDir

    if not argv or argv[0].startswith("-"):
        return _explain(command, "PRESET [--run-dir DIR] [--seed N] [--field value …]", argv)
    preset, family = load_preset(argv[0])
    if command == "search" and not is_search(preset):
        raise ConfigError(
            f"preset {argv[0]!r} has more to do than a population search: "
            f"{PROG} train {argv[0]}. Presets of a search alone: {', '.join(_names('search')[1])}"
        )
    config, path = parse_train(preset, family.config, argv[1:], f"{PROG} {command} {argv[0]}")
    return _run(config, RunDir.create(path, preset.preset), resume=False)


def _run(config: RunConfig[Any], run_dir: RunDir, *, resume: bool) -> int:
    from wm_distributed.launch.drive import drive
    from wm_distributed.launch.progress import PatientConsole
    from wm_distributed.launch.runtime import make_runtime
    from wm_distributed.launch.status_file import only_driver

    with only_driver(run_dir):
        try:
            runtime = make_runtime(config, run_dir.path, resume=resume)
            if not resume:
                run_dir.save_config(config)
            return drive(config, run_dir, runtime, PatientConsole())
        except ConfigError:
            if not resume:
                run_dir.discard()  # so that the mended command can take the same place
            raise
        finally:
            if not resume:
                run_dir.discard_if_empty()


if __name__ == "__main__":
    sys.exit(main())
