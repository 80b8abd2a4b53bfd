import pytest

from replay_service.checks import check_tables, steps_before_training, tables_of
from wm_distributed.api import DataSpec, SelectorSpec
from wm_distributed.config import ReplayConfig
from wm_distributed.errors import ConfigError


def test_one_table_may_serve_several_batch_sizes_but_not_several_lengths() -> None:
    small, large = (DataSpec(batch_size=size, length=8) for size in (4, 16))
    assert tables_of([small, large]) == {"sequences": small}
    for other in (
        DataSpec(batch_size=4, length=9),
        DataSpec(batch_size=4, length=8, context=1),
        DataSpec(batch_size=4, length=8, selector=SelectorSpec(uniform=0.5, recency=0.5)),
    ):
        with pytest.raises(ConfigError, match="table 'sequences' is described twice"):
            tables_of([small, other])
    with pytest.raises(ConfigError, match="at least one table"):
        tables_of([])
    with pytest.raises(ConfigError, match="at least 1"):
        tables_of([DataSpec(batch_size=0, length=8)])


def test_a_sequence_longer_than_a_shard_is_refused_with_the_numbers() -> None:
    replay = ReplayConfig(num_shards=2, capacity_steps=200, min_size=100)
    check_tables(replay, [DataSpec(batch_size=16, length=64, context=1)])
    with pytest.raises(ConfigError, match=r"needs 101 steps .*capacity_steps 200 over 2 shards"):
        check_tables(replay, [DataSpec(batch_size=16, length=100, context=1)])


def test_a_sequence_that_many_streams_would_crowd_out_is_refused() -> None:
    replay = ReplayConfig(num_shards=2, capacity_steps=2000)
    spec = DataSpec(batch_size=16, length=64)
    check_tables(replay, [spec], num_streams=20)
    with pytest.raises(ConfigError, match="40 streams"):
        check_tables(replay, [spec], num_streams=40)


def test_a_ratio_at_which_no_batch_would_ever_be_due_is_refused() -> None:
    spec = DataSpec(batch_size=16, length=64)
    replay = ReplayConfig(capacity_steps=10_000, ratio=0.2)
    check_tables(replay, [spec])
    with pytest.raises(ConfigError, match=r"16 x 64 = 1024 steps, which are due after 20480"):
        check_tables(ReplayConfig(capacity_steps=10_000, ratio=0.05), [spec])
    check_tables(ReplayConfig(capacity_steps=10_000, ratio=None), [spec])


def test_a_ratio_that_no_learner_could_keep_up_with_is_refused_with_the_numbers() -> None:
    specs = [
        DataSpec(batch_size=16, length=64),
        DataSpec(table="frames", batch_size=256, length=64, counts_for_ratio=False),
    ]
    check_tables(ReplayConfig(ratio=1_024_000.0), specs)
    with pytest.raises(
        ConfigError,
        match=r"ratio 1000000000 is too high .*16 x 64 = 1024 steps, so that 976,562 train steps .*"
        r"and 1,000 are the most; lower the ratio to 1,024,000 or less",
    ):
        check_tables(ReplayConfig(ratio=1e9), specs)
    check_tables(ReplayConfig(ratio=1e9, offline="runs/other"), specs)  # means nothing there


def test_training_begins_only_once_a_sequence_is_surely_held() -> None:
    specs = [DataSpec(batch_size=16, length=64, context=1)]
    replay = ReplayConfig(min_size=1000)
    assert steps_before_training(replay, specs, num_streams=8) == 1000
    # 16 streams of 64 steps each hold no sequence of 65; one step more makes one.
    assert steps_before_training(replay, specs, num_streams=16) == 16 * 64 + 1
