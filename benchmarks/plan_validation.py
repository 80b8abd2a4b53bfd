"""How far ``wm-distributed plan`` is from real runs: with 1, 2, 4 and 8 actors on this machine.

Measures the figures once, then simulates and runs each case through Ray. All runs join a cluster
of their own that claims more cores than there are, so that eight actors find a place::

    PYTHONPATH=. python benchmarks/plan_validation.py --seconds 40
"""

from __future__ import annotations

import argparse
import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster as RayCluster

from wm_distributed.config import RunConfig
from wm_distributed.launch.capacity.calibrate import calibrate
from wm_distributed.launch.capacity.figures import Cluster, workload_of
from wm_distributed.launch.capacity.simulation import simulate
from wm_distributed.launch.presets import load_preset
from wm_distributed.launch.runtime import make_runtime

CLAIMED_CORES = 16


def real_rates(config: RunConfig[Any], seconds: float) -> tuple[float, float]:
    """Environment and train steps a second of a run, from a while after training began."""
    with tempfile.TemporaryDirectory() as folder:
        runtime = make_runtime(config, Path(folder), resume=False)
        try:
            runtime.start()
            while runtime.poll().train_steps < 20:
                pass
            settled = time.monotonic() + seconds / 4
            while time.monotonic() < settled:
                first = runtime.poll()
            began = time.monotonic()
            while time.monotonic() < began + seconds:
                last = runtime.poll()
            passed = time.monotonic() - began
        finally:
            runtime.stop(checkpoint=False)
    steps = last.env_steps - first.env_steps, last.train_steps - first.train_steps
    return steps[0] / passed, steps[1] / passed


def main() -> None:
    """Prints simulated beside real rates, and the error."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="dreamer-debug")
    parser.add_argument("--ratios", type=float, nargs="+", default=[32.0, 0.5])
    parser.add_argument("--actors", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--seconds", type=float, default=40.0)
    args = parser.parse_args()
    preset, family = load_preset(args.preset)
    figures = calibrate(preset, args.seconds)
    print(figures, flush=True)
    cluster = RayCluster(initialize_head=True, head_node_args={"num_cpus": CLAIMED_CORES})
    errors = []
    try:
        for ratio in args.ratios:
            for actors in args.actors:
                config = dataclasses.replace(
                    preset,
                    actors=dataclasses.replace(preset.actors, num_actors=actors),
                    replay=dataclasses.replace(preset.replay, ratio=ratio),
                    eval=dataclasses.replace(preset.eval, every_env_steps=0),
                    stop=dataclasses.replace(preset.stop, env_steps=None, wall_seconds=1e9),
                    runtime=dataclasses.replace(preset.runtime, ray_address=cluster.address),
                )
                phases = list(family.phases(config.model))
                outcome = simulate(figures, workload_of(config, phases, actors), Cluster())
                env_steps, train_steps = real_rates(config, args.seconds)
                error = outcome.env_steps_per_second / env_steps - 1
                errors.append(abs(error))
                print(
                    f"ratio {ratio:g}, {actors} actors: "
                    f"env steps/s {outcome.env_steps_per_second:.1f} simulated, {env_steps:.1f} "
                    f"real ({error:+.0%}); train steps/s {outcome.train_steps_per_second:.2f} and "
                    f"{train_steps:.2f}",
                    flush=True,
                )
    finally:
        cluster.shutdown()
    print(f"mean error {sum(errors) / len(errors):.0%}, largest {max(errors):.0%}")


if __name__ == "__main__":
    main()
