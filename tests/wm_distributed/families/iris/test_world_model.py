from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from wm_distributed.families.iris.config import WorldModelConfig
from wm_distributed.families.iris.steps import Transitions
from wm_distributed.families.iris.world_model import WorldModel, world_model_losses

K, V, A, B, T = 3, 7, 4, 2, 5
CONFIG = WorldModelConfig(blocks=T, layers=2, heads=2, width=8, dropout=0.0)


@pytest.fixture(params=["absolute", "relative"])
def model(request: pytest.FixtureRequest) -> WorldModel:
    return random_model(replace(CONFIG, positions=request.param))


def random_model(config: WorldModelConfig) -> WorldModel:
    model = WorldModel(config, K, lambda: torch.zeros(V, 2), A).eval()
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


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(2, (B, T + 1, K))  # of two kinds, so that many stay as they are


@pytest.fixture
def steps() -> Transitions:
    return Transitions(
        action=torch.randint(A, (B, T)),
        segment=torch.tensor([[0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]),
        valid=torch.tensor([[True, True, False, True, True], [True] * 5]),
        reward_class=torch.randint(3, (B, T)),
        end=torch.randint(2, (B, T)).float(),
    )


def test_token_loss_equals_a_naive_loop(
    model: WorldModel, tokens: Tensor, steps: Transitions
) -> None:
    found, _ = world_model_losses(model, tokens, steps)
    out = model.next_token(model(tokens[:, :-1], steps.action, steps.segment)).log_softmax(-1)
    errors = []
    for b in range(B):
        for t in range(T):
            errors += [-out[b, t, k, tokens[b, t, k + 1]] for k in range(K - 1)]
            if steps.valid[b, t]:
                errors.append(-out[b, t, K, tokens[b, t + 1, 0]])
    torch.testing.assert_close(found["tokens"], torch.stack(errors).mean())


def test_accuracy_on_changed_tokens_equals_a_naive_loop(
    model: WorldModel, tokens: Tensor, steps: Transitions
) -> None:
    _, figures = world_model_losses(model, tokens, steps)
    out = model.next_token(model(tokens[:, :-1], steps.action, steps.segment)).argmax(-1)
    right = []
    for b in range(B):
        for t in range(T):  # the transition from frame t to frame t + 1
            for k in range(K if t + 1 < T else 1):
                true = int(tokens[b, t + 1, k])
                if steps.valid[b, t] and true != tokens[b, t, k]:
                    predicted = out[b, t + 1, k - 1] if k else out[b, t, K]
                    right.append(float(predicted == true))
    expected = torch.tensor(right).mean()
    torch.testing.assert_close(figures["changed_token_accuracy"], expected)
    assert right


@pytest.mark.parametrize("outcomes", ["action", "frame"])
def test_outcomes_are_read_at_the_action_or_at_the_end_of_the_next_frame(
    tokens: Tensor, steps: Transitions, outcomes: Literal["action", "frame"]
) -> None:
    model = random_model(replace(CONFIG, outcomes=outcomes))
    out = model(tokens[:, :-1], steps.action, steps.segment)
    found, _ = world_model_losses(model, tokens, steps)
    late = outcomes == "frame"
    rewards, ends = [], []
    for b in range(B):
        for t in range(T - late):
            if steps.valid[b, t]:
                told = out[b, t + 1, K - 1] if late else out[b, t, K]
                chance = model.end(told).squeeze(-1).sigmoid()
                rewards.append(-model.reward(told).log_softmax(-1)[steps.reward_class[b, t]])
                ends.append(-(chance if steps.end[b, t] else 1 - chance).log())
    torch.testing.assert_close(found["reward"], torch.stack(rewards).mean())
    torch.testing.assert_close(found["end"], torch.stack(ends).mean())


def test_published_sizes_have_the_published_window_and_as_many_parameters() -> None:
    with torch.device("meta"):
        model = WorldModel(WorldModelConfig(), 16, lambda: torch.empty(512, 512), 4)
    assert model.max_positions == 340
    assert sum(param.numel() for param in model.parameters()) == 8_447_236
