import pytest
import torch
from torch import Tensor

from wm_distributed.families.iris.config import WorldModelConfig
from wm_distributed.families.iris.steps import Transitions
from wm_distributed.families.iris.world_model import WorldModel, world_model_losses

K, V, A, B, T = 3, 7, 4, 2, 5
CONFIG = WorldModelConfig(blocks=T, layers=2, heads=2, width=8, dropout=0.0)


@pytest.fixture
def model() -> WorldModel:
    model = WorldModel(CONFIG, K, V, A).eval()
    for param in model.parameters():
        torch.nn.init.normal_(param, std=0.5)
    return model


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    tokens, actions = torch.randint(V, (B, T, K)), torch.randint(A, (B, T))
    return tokens, actions, torch.zeros(B, T, dtype=torch.long)


@torch.no_grad()
def test_changing_a_token_moves_no_earlier_output(model: WorldModel) -> None:
    tokens, actions, segment = inputs()
    before = model(tokens, actions, segment)
    for t in range(T):
        for k in range(K):
            probe = tokens.clone()
            probe[:, t, k] = (probe[:, t, k] + 1) % V
            moved = (model(probe, actions, segment) != before).any(-1).any(0).flatten()
            place = t * (K + 1) + k
            assert moved.tolist() == [position >= place for position in range(T * (K + 1))]


@torch.no_grad()
def test_changing_an_action_moves_its_own_output_and_later_ones_alone(model: WorldModel) -> None:
    tokens, actions, segment = inputs()
    before = model(tokens, actions, segment)
    probe = actions.clone()
    probe[:, 2] = (probe[:, 2] + 1) % A
    moved = (model(tokens, probe, segment) != before).any(-1).any(0).flatten()
    assert moved.tolist() == [position >= 2 * (K + 1) + K for position in range(T * (K + 1))]


@torch.no_grad()
def test_an_episode_does_not_see_the_one_before_it(model: WorldModel) -> None:
    tokens, actions, segment = inputs()
    segment[:, 3:] = 1
    before = model(tokens, actions, segment)
    probe = tokens.clone()
    probe[:, 0] = (probe[:, 0] + 1) % V
    moved = (model(probe, actions, segment) != before).any(-1).any(-1).any(0)
    assert moved.tolist() == [True, True, True, False, False]


def test_losses_equal_a_naive_loop(model: WorldModel) -> None:
    tokens = torch.randint(V, (B, T + 1, K))
    steps = Transitions(
        action=torch.randint(A, (B, T)),
        segment=torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]),
        valid=torch.tensor([[True, True, False, True, True], [True] * 5]),
        reward_class=torch.randint(3, (B, T)),
        end=torch.randint(2, (B, T)).float(),
    )
    found, _ = world_model_losses(model, tokens, steps)
    out = model(tokens[:, :-1], steps.action, steps.segment)
    errors: dict[str, list[Tensor]] = {"tokens": [], "reward": [], "end": []}
    for b in range(B):
        for t in range(T):
            for k in range(K - 1):  # token k + 1 of the same frame
                logits = model.next_token(out[b, t, k]).log_softmax(-1)
                errors["tokens"].append(-logits[tokens[b, t, k + 1]])
            if not steps.valid[b, t]:
                continue
            acted = out[b, t, K]
            errors["tokens"].append(-model.next_token(acted).log_softmax(-1)[tokens[b, t + 1, 0]])
            errors["reward"].append(-model.reward(acted).log_softmax(-1)[steps.reward_class[b, t]])
            chance = model.end(acted).squeeze(-1).sigmoid()
            errors["end"].append(-(chance if steps.end[b, t] else 1 - chance).log())
    for name, values in errors.items():
        torch.testing.assert_close(found[name], torch.stack(values).mean(), msg=name)


def test_published_sizes_have_the_published_window_and_as_many_parameters() -> None:
    with torch.device("meta"):
        model = WorldModel(WorldModelConfig(), 16, 512, 4)
    assert model.max_positions == 340
    assert sum(param.numel() for param in model.parameters()) == 8_447_236
