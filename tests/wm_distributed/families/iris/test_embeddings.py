import torch
from torch import Tensor, nn

from wm_distributed.families.iris.embeddings import CodeEmbedding, RelativePositions
from wm_distributed.families.iris.transformer import causal

BLOCK, HEADS, POSITIONS = 4, 3, 12


def relative() -> RelativePositions:
    positions = RelativePositions(POSITIONS, BLOCK, HEADS, width=5)
    nn.init.normal_(positions.distances.weight)
    return positions


def test_equal_codes_are_embedded_equally_and_like_codes_alike() -> None:
    codes = torch.randn(6, 3)
    codes[1], codes[2] = codes[0], codes[0] + 0.01
    embedding = CodeEmbedding(lambda: codes, width=8)
    one, same, near, *others = embedding(torch.arange(6))
    assert torch.equal(one, same)
    assert 0 < (one - near).norm() < 0.1 * min((one - other).norm() for other in others)


def test_embeddings_follow_the_codes_as_they_change() -> None:
    codes = [torch.randn(6, 3)]
    embedding = CodeEmbedding(lambda: codes[0], width=8)
    before = embedding(torch.arange(6))
    codes[0] = codes[0].roll(1, 0)
    torch.testing.assert_close(embedding(torch.arange(6)), before.roll(1, 0))


def test_codes_get_no_gradient() -> None:
    codes = nn.Parameter(torch.randn(6, 3))
    embedding = CodeEmbedding(lambda: codes, width=8)
    embedding(torch.arange(6)).square().sum().backward()
    assert codes.grad is None
    assert embedding.map.weight.grad is not None


def seen(positions: RelativePositions, first: int, stop: int) -> Tensor:
    return positions(first, stop, causal(stop, torch.device("cpu"))[first:])[1][0]


def test_the_bias_depends_on_the_distance_alone() -> None:
    bias = seen(relative(), 0, POSITIONS)
    assert bias.shape == (HEADS, POSITIONS, POSITIONS)
    for query in range(POSITIONS):
        for key in range(POSITIONS):
            value = bias[:, query, key]
            if key > query:
                assert (value == -torch.inf).all()
            else:
                assert torch.equal(value, bias[:, query - key, 0])


def test_new_positions_get_the_rows_that_they_have_among_all() -> None:
    positions = relative()
    whole, some = positions(0, 9, None), positions(5, 9, None)
    torch.testing.assert_close(some[0], whole[0][5:])
    torch.testing.assert_close(some[1], whole[1][:, :, 5:])


def test_blocks_have_the_same_places() -> None:
    places = relative()(0, POSITIONS, None)[0]
    torch.testing.assert_close(places[:BLOCK], places[BLOCK : 2 * BLOCK])
    assert len(places[:BLOCK].unique(dim=0)) == BLOCK
