"""A real run whose only simulators are outside, through the client that docs/gateway.md shows.

The counting environment tells by its observation which step it is. So whatever is found in replay
is compared, step by step, with what the clients have sent.
"""

import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from replay_service.client import ReplayClient
from wm_distributed.api import DataSpec
from wm_distributed.config import ActorConfig, GatewayConfig, StopConfig
from wm_distributed.errors import ConfigError
from wm_distributed.launch.preflight import preflight
from wm_distributed.launch.ray_gateway import listen
from wm_distributed.launch.ray_runtime import RayRuntime
from wm_distributed.launch.runtime import RunStatus
from wm_distributed.testing import CountingConfig, CountingEnv
from wm_distributed.testing.counting_family import counting_preset

PAGE = Path(__file__).parents[3] / "docs" / "gateway.md"
TOKEN = "the token of this run"
PATIENCE_SECONDS = 120.0
Step = tuple[Any, ...]
"""Identity, episode, count, action, reward, is_first, is_last, is_terminal."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


class Run:
    """A run with a gateway, and the page's client for it."""

    def __init__(self, directory: Path) -> None:
        config = counting_preset()
        self.config = dataclasses.replace(
            config,
            model=CountingConfig(check_data=True, data=DataSpec(batch_size=4, length=2)),
            actors=ActorConfig(num_actors=0, chunk_steps=8),
            gateway=GatewayConfig(port=free_port(), max_streams=4),
            stop=StopConfig(env_steps=None, wall_seconds=10_000.0),
        )
        self.directory = directory
        self.client_file = directory / "gateway_client.py"
        blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.M | re.S)
        self.client_file.write_text("\n\n".join(blocks))
        self.client = types.ModuleType("gateway_client")
        exec(self.client_file.read_text(), self.client.__dict__)
        self.plan = preflight(self.config, directory)
        self.runtime = RayRuntime(self.plan, resume=False)

    def until(self, condition: Callable[[RunStatus], object]) -> RunStatus:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            status = self.runtime.poll()
            if condition(status):
                return status
            assert time.monotonic() < deadline, f"still {status}"

    def gateway_pid(self) -> int:
        def process(status: RunStatus) -> Any:
            (found,) = [p for p in status.processes if p.role == "gateway"]
            return found

        status = self.until(lambda s: process(s).health == "running")
        return int(process(status).pid)

    def connect(self, **arguments: Any) -> Any:
        """A connection, as soon as the gateway takes one."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            gateway = object.__new__(self.client.Gateway)
            try:
                gateway.__init__("127.0.0.1", self.config.gateway.port, **arguments)
                return gateway
            except (OSError, RuntimeError):
                assert time.monotonic() < deadline
                if hasattr(gateway, "socket"):
                    gateway.socket.close()
                time.sleep(0.1)

    def contents(self, identity: int, count: int) -> set[Step]:
        """The steps of one simulator that replay holds, of which there are so many."""
        handles = self.runtime._teams.services.shard_handles()
        spec = DataSpec(batch_size=512, length=2)
        replay = ReplayClient(handles, spec, timeout_seconds=30.0, seed=identity)
        found: set[Step] = set()
        for _ in range(40):
            columns = replay.sample().columns
            names = ["action", "reward", "is_first", "is_last", "is_terminal"]
            parts = [columns["obs/vector"], *(columns[name][..., None] for name in names)]
            rows = np.concatenate([part.astype(np.float64) for part in parts], -1).reshape(-1, 8)
            found |= {tuple(row) for row in rows.tolist() if row[0] == identity}
            if len(found) >= count:
                break
        return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WM_DISTRIBUTED_GATEWAY_TOKEN", TOKEN)
        run = Run(tmp_path_factory.mktemp("run"))
        try:
            run.runtime.start()
            yield run
        finally:
            run.runtime.stop(checkpoint=False)


class Simulator:
    """A counting environment that remembers every step, with the action that was sent back."""

    def __init__(self, identity: int) -> None:
        self.env = CountingEnv()
        self.seed: int | None = identity
        self.sent: list[Step] = []

    def reset(self) -> list[float]:
        obs, _ = self.env.reset(seed=self.seed)
        self.seed = None
        self.flags = (0.0, True, False, False)
        return self._seen(obs)

    def step(self, action: int) -> tuple[list[float], float, bool, bool]:
        self.sent[-1] = (*self.sent[-1][:3], float(action), *self.sent[-1][4:])
        obs, reward, terminated, truncated, _ = self.env.step(np.int64(action))
        self.flags = (reward, False, terminated or truncated, terminated)
        return self._seen(obs), reward, terminated, truncated

    def _seen(self, obs: Any) -> list[float]:
        self.sent.append((*obs.tolist(), 0.0, *map(float, self.flags)))
        return obs.tolist()


def in_thread(run: Run, work: Callable[[], None]) -> None:
    """Does the work in a thread while the driver does its own."""
    errors: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    run.until(lambda _: not thread.is_alive())
    assert not errors, errors


@pytest.mark.slow
@pytest.mark.usefixtures("quick_polls")
def test_every_step_of_a_client_arrives_exactly_and_is_trained_on(run: Run) -> None:
    simulator = Simulator(100)

    def play() -> None:
        gateway = run.connect()
        run.client.simulate(gateway, simulator, num_episodes=40)
        gateway.socket.close()

    in_thread(run, play)
    sent = len(simulator.sent)
    status = run.until(lambda s: s.metrics["gateway/env_steps"] == sent and s.train_steps > 40)
    assert status.metrics["replay/steps"] == sent == status.env_steps
    assert run.contents(100, sent) == set(simulator.sent)
    assert status.metrics["gateway/policy_version"] > 0
    assert status.metrics["limiter/ratio"] == pytest.approx(4.0, rel=0.2)


CLIENT = """
import sys
from gateway_client import Gateway, simulate
from wm_distributed.testing import CountingEnv
import numpy as np

class Endless:
    env, seed = CountingEnv(), int(sys.argv[2])

    def reset(self):
        obs, _ = self.env.reset(seed=self.seed)
        self.seed = None
        return obs.tolist()

    def step(self, action):
        obs, reward, terminated, truncated, _ = self.env.step(np.int64(action))
        print(*obs[1:], flush=True)
        return obs.tolist(), reward, terminated, truncated

simulate(Gateway("127.0.0.1", int(sys.argv[1])), Endless(), 10**9)
"""


@pytest.mark.slow
@pytest.mark.usefixtures("quick_polls")
def test_the_stream_of_a_client_killed_within_an_episode_is_sealed_where_it_was(run: Run) -> None:
    before = run.until(lambda s: s.metrics["gateway/clients"] == 0).metrics["replay/steps"]
    command = [sys.executable, "-c", CLIENT, str(run.config.gateway.port), "200"]
    path = os.pathsep.join([str(run.directory), os.environ.get("PYTHONPATH", ""), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=environment, cwd=run.directory
    ) as process:
        assert process.stdout is not None
        run.until(lambda s: s.metrics["gateway/clients"] == 1)
        while True:  # the first steps of the fourth episode
            episode, count = map(float, process.stdout.readline().split())
            if (episode, count) >= (3.0, 1.0):
                break
        process.kill()
    after = run.until(lambda s: s.metrics["gateway/clients"] == 0).metrics["replay/steps"]
    assert after > before
    next_client = Simulator(201)

    def play() -> None:
        gateway = run.connect()
        run.client.simulate(gateway, next_client, num_episodes=2)
        gateway.socket.close()

    in_thread(run, play)
    run.until(lambda s: s.metrics["replay/steps"] == after + len(next_client.sent))
    found = sorted(run.contents(200, int(after - before)), key=lambda step: step[1:3])
    assert len(found) == after - before
    whole = Simulator(200)  # what an undisturbed simulator would have given, up to there
    actions = iter([int(step[3]) for step in found])
    while len(whole.sent) < len(found):
        whole.reset()
        ended = False
        while not ended and len(whole.sent) < len(found):
            _, _, terminated, truncated = whole.step(next(actions))
            ended = terminated or truncated
        next(actions, None)
    assert found[:-1] == whole.sent[:-1]
    assert found[-1][:3] == whole.sent[-1][:3]
    assert found[-1][6:] == (1.0, whole.sent[-1][7])  # ends there, and never terminally by death


@pytest.mark.slow
@pytest.mark.usefixtures("quick_polls")
def test_nothing_that_was_told_as_stored_is_lost_or_doubled_when_the_gateway_is_killed(
    run: Run,
) -> None:
    before = run.until(lambda s: s.metrics["gateway/clients"] == 0).metrics["replay/steps"]
    pid = run.gateway_pid()
    inserted, acting = Simulator(300), Simulator(301)
    told = 0

    def insert() -> None:
        gateway = run.connect(mode="insert")
        ticket = (gateway.actor, gateway.incarnation)
        for number, chunk in enumerate(chunks(inserted, num_episodes=12)):
            columns = {k: gateway.column(k, len(chunk), v) for k, v in as_columns(chunk).items()}
            message = ("chunk", *ticket, 0, number, 0, columns)
            if number == 5:
                data = msgpack.packb(["wmd", 1, *message])
                gateway.socket.sendall(len(data).to_bytes(4, "big") + data)
                os.kill(pid, signal.SIGKILL)  # before, while or after it is stored
                gateway.socket.close()
                gateway = run.connect(mode="insert", resume=(*ticket, gateway.proof))
            gateway.ask(*message)
        gateway.socket.close()

    def act() -> None:
        nonlocal told
        gateway = run.connect()
        try:
            run.client.simulate(gateway, acting, num_episodes=10**9)
        except OSError:
            told = gateway.stored
        gateway.socket.close()

    other = threading.Thread(target=act)
    other.start()
    run.until(lambda s: s.metrics["gateway/env_steps"] > 40 and len(acting.sent) > 20)
    in_thread(run, insert)
    other.join(PATIENCE_SECONDS)
    assert run.gateway_pid() != pid
    run.until(lambda s: s.metrics["gateway/clients"] == 0)
    kept = run.contents(301, len(acting.sent))
    assert 0 < told <= len(kept) <= len(acting.sent)
    assert {step[:3] for step in kept} == {step[:3] for step in acting.sent[: len(kept)]}
    assert run.contents(300, len(inserted.sent)) == set(inserted.sent)
    stored = before + len(kept) + len(inserted.sent)
    status = run.until(lambda s: s.metrics["replay/steps"] >= stored)  # once all are heard of
    assert status.metrics["replay/steps"] == stored
    assert status.metrics["run/recoveries"] == 1


def chunks(simulator: Simulator, num_episodes: int) -> Iterator[list[Step]]:
    """Episodes with actions of their own, each of which fits a chunk."""
    for _ in range(num_episodes):
        begin = len(simulator.sent)
        simulator.reset()
        ended = False
        while not ended:
            _, _, terminated, truncated = simulator.step(1)
            ended = terminated or truncated
        yield simulator.sent[begin:]


def as_columns(steps: list[Step]) -> dict[str, list[Any]]:
    flags = {
        name: [bool(step[column]) for step in steps]
        for name, column in (("is_first", 5), ("is_last", 6), ("is_terminal", 7))
    }
    return {
        "obs/vector": [value for step in steps for value in step[:3]],
        "action": [int(step[3]) for step in steps],
        "reward": [step[4] for step in steps],
        "latent/count": [step[2] for step in steps],
        **flags,
    }


def test_a_port_that_is_taken_ends_the_run_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wm_distributed.launch.ray_gateway._PORT_SECONDS", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port}: .*in use.*another gateway.port"):
            listen(GatewayConfig(port=port))


def test_a_port_that_is_given_back_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setattr("time.sleep", lambda _: taken.close())
    with listen(GatewayConfig(port=taken.getsockname()[1])) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"
