"""Runs a search with files in a folder until it ends, or until it kills itself.

Arguments: the folder, after how many evaluations to die, and whether in the middle of a line.
"""

import os
import signal
import sys
from pathlib import Path

import msgpack
import numpy as np

from learners.population import Archipelago, ResultJournal
from learners.search_server import SearchServer
from wm_distributed.search_config import SearchConfig
from wm_distributed.types import Array, CandidateTask, EpisodeResult


def answer(task: CandidateTask, params: Array) -> EpisodeResult:
    noise = np.random.default_rng(task.seed).normal()
    return EpisodeResult(noise - float(((params - 1) ** 2).sum()), 10, task.seed)


def main(folder: Path, die_after: int, torn: bool) -> None:
    config = SearchConfig(
        islands=2,
        population_size=(6, 10),
        sigma=(0.5,),
        episodes=2,
        held_out_every=5,
        held_out_episodes=4,
        restarts="bipop",
        max_episodes=400,
    )
    journal, saved = ResultJournal(folder / "results.jsonl"), folder / "state"
    server = SearchServer(Archipelago(config, np.zeros(4), seed=1), 60.0, journal)
    server.load_state_dict(msgpack.unpackb(saved.read_bytes()) if saved.exists() else {})
    evaluations = 0
    while not server.should_stop():
        for task, params in server.lease("a", 1):
            result = answer(task, params)
            if evaluations == die_after:
                if torn:
                    os.write(journal._file.fileno(), b"0123abcd [0, 1")
                os.kill(os.getpid(), signal.SIGKILL)
            server.tell([(task, result)])
            evaluations += 1
            if evaluations % 60 == 0:
                (folder / "state.new").write_bytes(msgpack.packb(server.state_dict()))
                (folder / "state.new").replace(saved)
    (folder / "best.txt").write_text(repr(server.best().tolist()))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "torn")
