import pytest
import torch

from wm_distributed.families.iris.transformer import (
    Cache,
    Transformer,
    causal,
    init_transformer_,
    matrices,
)

LENGTH = 9


@pytest.fixture
def transformer() -> Transformer:
    """With weights large enough that every position matters to those that see it."""
    model = Transformer(width=8, num_layers=3, heads=2, dropout=0.0)
    for layer in model.layers:
        torch.nn.init.normal_(layer.qkv.weight, std=1.0)
    return model.eval()


def test_a_position_does_not_see_those_after_it(transformer: Transformer) -> None:
    x = torch.randn(2, LENGTH, 8)
    allowed = causal(LENGTH, x.device)
    before = transformer(x, allowed)
    for changed in range(LENGTH):
        probe = x.clone()
        probe[:, changed] += torch.randn(8)
        moved = (transformer(probe, allowed) != before).any(-1).any(0)
        assert moved.tolist() == [position >= changed for position in range(LENGTH)]


def test_without_a_mask_everything_is_seen(transformer: Transformer) -> None:
    x = torch.randn(1, LENGTH, 8)
    probe = x.clone()
    probe[:, -1] += 1.0
    assert (transformer(probe, None) != transformer(x, None)).any(-1).all()


@pytest.mark.parametrize("parts", [[1] * LENGTH, [4, 1, 2, 2], [LENGTH]])
def test_remembered_keys_and_values_give_the_same_outputs(
    transformer: Transformer, parts: list[int]
) -> None:
    x = torch.randn(2, LENGTH, 8)
    allowed = causal(LENGTH, x.device)
    expected = transformer(x, allowed)
    cache, found = Cache(3, LENGTH), []
    for part in x.split(parts, dim=1):
        stop = cache.size + part.shape[1]
        found.append(transformer(part, allowed[cache.size : stop, :stop], cache))
    torch.testing.assert_close(torch.cat(found, dim=1), expected, rtol=1e-4, atol=1e-5)
    assert cache.size == LENGTH


def test_only_the_weights_of_linear_layers_are_matrices_to_decay(transformer: Transformer) -> None:
    init_transformer_(transformer)
    chosen = {id(param) for param in matrices(transformer)}
    names = {name for name, param in transformer.named_parameters() if id(param) in chosen}
    assert len(names) == 3 * 4  # qkv, out and two of the perceptron in each layer
    assert all(name.endswith(".weight") and "norm" not in name for name in names)
