"""Ray itself: a cluster of our own on this machine, or one that is joined.

A cluster of our own leaves nothing behind. Its files lie in a temporary directory of their own, all
its processes carry a mark, and a watcher (``reaper.py``) ends and removes everything even if this
process is killed. On a joined cluster Ray ends this run's processes when the driver goes, and the
rest is not ours.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from wm_distributed.errors import ConfigError, DeadlineError, WorkerDiedError
from wm_distributed.launch.reaper import MARK_VARIABLE, reap, start_reaper
from wm_distributed.threads import thread_env

logger = logging.getLogger(__name__)

_ANSWER_SECONDS = 30.0  # for a cluster to answer; starting Python takes some of it
_TOKEN_ASKED = "AuthenticationError"
_NO_ANSWER = (ConnectionError, TimeoutError)
_HEAD_SECONDS = 15.0  # without the head; Ray waits for a minute
# Of Ray, where the user has set nothing else; the files in deploy/ set the same.
CLUSTER_SETTINGS = {
    # Children of a worker, such as environments in processes of their own, end with it.
    "RAY_process_group_cleanup_enabled": "1",
    # By default workers run at nice 15, and anything else on the machine takes their cores.
    "RAY_worker_niceness": "0",
}


def worker_environment() -> dict[str, str]:
    """Environment variables of every worker, set before anything is imported there.

    One thread a process: each role then asks torch for as many as it may use.
    """
    return thread_env(1)


class RayCluster:
    """Connects this process to Ray; at most one at a time."""

    def __init__(self, address: str | None) -> None:
        """Starts nothing yet.

        Args:
            address: ``host:port`` or ``auto``; None for a cluster of our own.
        """
        self._address = address
        self._answered_at = math.inf
        self._machines: dict[str, str] = {}  # addresses by Ray's ids
        self._mark = secrets.token_hex(8)
        self._temp_dir: Path | None = None
        self._reaper: subprocess.Popen[bytes] | None = None

    @property
    def joined(self) -> bool:
        """Whether the cluster is somebody else's."""
        return self._address is not None

    def start(self) -> None:
        """Starts or joins the cluster.

        Raises:
            ConfigError: Nothing answers at the address, or it is not a cluster that can be joined;
                or one of our own has no place for its files.
            DeadlineError: A cluster of our own does not come up, twice.
        """
        options: dict[str, Any] = {
            "namespace": f"wm-{self._mark}",
            "log_to_driver": False,
            "logging_level": logging.ERROR,
        }
        # What fails in a worker is asked for, and told once; Ray would print it, too.
        os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
        with _keeping_signal_handlers():
            if self._address is None:
                self._start_local(options)
            else:
                self._join(self._address, options)

    def check(self) -> None:
        """Asks the head of a joined cluster for a sign of life, and logs who has left and joined.

        Raises:
            WorkerDiedError: None has come for a while. Without this Ray would end this process,
                too, after a minute and without a word.
        """
        if not self.joined:
            return
        head: str = ray.get_runtime_context().gcs_address
        try:
            _connect(head)
            self._answered_at = time.monotonic()
        except OSError as error:
            silence = time.monotonic() - self._answered_at
            if silence > _HEAD_SECONDS:
                raise WorkerDiedError(
                    f"the head of the Ray cluster at {head} has not answered for {silence:.0f} s "
                    f"({error}): start the cluster again, then resume the run"
                ) from error
        else:
            self._watch_machines()

    def _watch_machines(self) -> None:
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        alive = {node["NodeID"]: node for node in nodes if node["Alive"]}
        cores = sum(node["Resources"].get("CPU", 0.0) for node in alive.values())
        for left in self._machines.keys() - alive.keys():
            logger.warning(
                "machine %s has left the Ray cluster, where %g CPU cores remain: what ran there "
                "starts again on others, or as soon as a machine with room for it joins",
                self._machines[left], cores,
            )  # fmt: skip
        for joined in alive.keys() - self._machines.keys() if self._machines else ():
            address = alive[joined]["NodeManagerAddress"]
            logger.warning("machine %s has joined: %g CPU cores", address, cores)
        self._machines = {node: alive[node]["NodeManagerAddress"] for node in alive}

    def stop(self) -> None:
        """Disconnects; a cluster of our own is gone afterwards. May be called again."""
        with _keeping_signal_handlers():
            ray.shutdown()
        if self._temp_dir is not None:
            if left := reap(self._mark, self._temp_dir):
                logger.error("processes %s of this run cannot be ended", left)
            self._temp_dir = None
        if self._reaper is not None:
            self._reaper.kill()
            self._reaper.wait()
            self._reaper = None

    def _start_local(self, options: Mapping[str, Any]) -> None:
        """Starts a cluster of our own, once more if the first attempt fails on a busy machine."""
        for is_last in (False, True):
            try:
                return self._start_processes(options)
            except Exception as error:  # Ray has no class of its own for this
                if isinstance(error, OSError) and not isinstance(error, _NO_ANSWER):
                    raise ConfigError(
                        f"Ray cannot start with its files in {self._temp_dir or 'TMPDIR'}: "
                        f"{error}; set TMPDIR to another directory with free space"
                    ) from error
                if is_last:
                    raise DeadlineError(
                        f"Ray did not start, twice: {error}\nIs the machine short of memory or "
                        "overloaded? Try again, or --runtime inline does without Ray"
                    ) from error
                logger.warning("Ray did not start, and is started once more: %s", error)
                self.stop()

    def _start_processes(self, options: Mapping[str, Any]) -> None:
        self._temp_dir = _make_temp_dir()
        self._reaper = start_reaper(self._mark, self._temp_dir)
        # Through the environment of Ray's own processes and not as a Ray runtime environment, with
        # which each worker takes 0.4 s longer to start (ray 2.60: a second interpreter).
        settings = {name: os.environ.get(name, value) for name, value in CLUSTER_SETTINGS.items()}
        environment = {
            MARK_VARIABLE: self._mark,
            # Ray's own agents rename themselves; without this they lose the mark in doing so.
            "SPT_NOENV": "1",
            "PYTHONPATH": _import_path(),
            **settings,
            **worker_environment(),
        }
        with _environment(environment):
            ray.init(
                address="local",
                include_dashboard=False,
                _temp_dir=str(self._temp_dir),
                **options,
            )

    def _join(self, address: str, options: Mapping[str, Any]) -> None:
        _check_answers(address)
        try:
            ray.init(address=address, runtime_env={"env_vars": worker_environment()}, **options)
        except Exception as error:  # Ray has no class of its own for this
            raise ConfigError(f"cannot join the Ray cluster at {address!r}: {error}") from error


def _make_temp_dir() -> Path:
    """A directory for temporary files, in ``/tmp`` if the usual place has too long a path.

    A Unix socket's path has 107 bytes at most, of which Ray's part, the session's name, takes 64.
    """
    place = tempfile.gettempdir()
    if len(os.fsencode(place)) + len("/wm-ray-12345678") + 64 > 107:
        place = "/tmp"
    return Path(tempfile.mkdtemp(prefix="wm-ray-", dir=place))


def _import_path() -> str:
    """Where this process finds modules beside the installed ones; its workers search there, too."""
    installed = (sys.prefix, sys.base_prefix)
    paths = [path or os.getcwd() for path in sys.path if not path.startswith(installed)]
    return os.pathsep.join(paths)


def free_resources() -> dict[str, float]:
    """CPUs and GPUs of the cluster that nobody has reserved."""
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    return {name: free.get(name, 0.0) for name in ("CPU", "GPU")}


def _check_answers(address: str) -> None:
    """Asks the cluster for a sign of life; ``ray.init`` alone would wait for minutes.

    Raises:
        ConfigError: None came, and what to do.
    """
    advice = (
        "start one with `ray start --head`, give the address that it prints, or leave "
        "runtime.ray_address out to run on this machine alone"
    )
    if address.startswith("ray://"):
        raise ConfigError(
            f"runtime.ray_address {address!r}: Ray client addresses are not supported; run this "
            "command on a machine of the cluster, with --ray-address auto"
        )
    if address != "auto":
        _check_port(address, advice)
    problem = _ask_for_health(address, advice)
    if _TOKEN_ASKED in problem and _give_token():
        problem = _ask_for_health(address, advice)
    if _TOKEN_ASKED in problem:
        problem = "it asks for a token"
        advice = "copy its ~/.ray/auth_token here, and leave RAY_AUTH_MODE unset"
    if problem:
        raise ConfigError(f"no Ray cluster to join at {address!r} ({problem}): {advice}")


def _give_token() -> bool:
    """Lets Ray give the token of this machine, as `ray start` asks for it; False: there is none."""
    from ray._private.authentication import authentication_token_setup as setup

    given: bool = setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    return given


def _ask_for_health(address: str, advice: str) -> str:
    """What is wrong with the cluster at an address; empty if nothing is.

    Raises:
        ConfigError: Nobody answers in time.
    """
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check"]
    command += [] if address == "auto" else ["--address", address]
    try:
        answer = subprocess.run(command, capture_output=True, timeout=_ANSWER_SECONDS, text=True)
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"no Ray cluster answers at {address!r} within {_ANSWER_SECONDS:.0f} s: {advice}"
        ) from None
    if answer.returncode == 0:
        return ""
    return (answer.stderr.strip().splitlines() or ["no reason given"])[-1]


def _check_port(address: str, advice: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigError(
            f"runtime.ray_address must be auto or host:port, got {address!r}: {advice}"
        )
    try:
        _connect(address)
    except OSError as error:
        raise ConfigError(f"nothing answers at {address!r} ({error}): {advice}") from error


def _connect(address: str) -> None:
    """Raises OSError if nobody listens there."""
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), timeout=5.0).close()


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables inside the block, for the processes that are started there."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _keeping_signal_handlers() -> Iterator[None]:
    """Puts the handler of SIGTERM back that ``ray.init`` replaces (in the main thread)."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is not handler:
            signal.signal(signal.SIGTERM, handler)
