from wm_distributed.launch.memory import memory_warning
from wm_distributed.launch.runtime import ProcessStatus, Role


def process(role: Role, node: str, replay_gb: float) -> ProcessStatus:
    stats = {"replay/allocated_bytes": replay_gb * 1e9, "run/machine_bytes": 16e9}
    return ProcessStatus(
        role=role, index=0, node=node, pid=1, health="running", restarts=0, stats=stats
    )


def test_the_shards_of_a_machine_are_compared_with_its_memory() -> None:
    shards = [process("shard", "a", 8.0), process("shard", "a", 8.0), process("shard", "b", 8.0)]
    assert memory_warning([*shards, process("actor", "a", 0.0)]).startswith(
        "full replay takes 16.0 GB of a, which has 16.0 GB: lower replay.capacity_steps"
    )


def test_replay_that_fits_is_not_mentioned() -> None:
    assert memory_warning([process("shard", "a", 8.0), process("shard", "b", 14.0)]) == ""


def test_a_process_that_has_not_answered_yet_says_nothing() -> None:
    starting = ProcessStatus(
        role="shard", index=0, node="", pid=0, health="starting", restarts=0, stats={}
    )
    assert memory_warning([starting]) == ""
