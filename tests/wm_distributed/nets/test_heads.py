import math

import torch

from wm_distributed.nets.heads import BinaryHead, NormalHead, TwoHotHead


def test_a_new_two_hot_head_predicts_exactly_zero() -> None:
    head = TwoHotHead(6, 8, 2, 255, "rms", "silu")
    logits = head(torch.randn(3, 4, 6))
    assert logits.shape == (3, 4, 255)
    assert head.mean(logits).eq(0.0).all()


def test_a_two_hot_head_learns_large_and_small_targets_alike() -> None:
    head = TwoHotHead(2, 16, 1, 255, "rms", "silu")
    feat = torch.eye(2)
    target = torch.tensor([0.3, -700.0])
    optimizer = torch.optim.Adam(head.parameters(), lr=0.03)
    for _ in range(150):
        optimizer.zero_grad()
        head.loss(head(feat), target).sum().backward()
        optimizer.step()
    torch.testing.assert_close(head.mean(head(feat)).detach(), target, rtol=0.1, atol=0.05)


def test_the_bins_are_not_part_of_the_state() -> None:
    assert "bins" not in TwoHotHead(6, 8, 1, 41, "rms", "silu").state_dict()


def test_a_binary_head_gives_one_logit() -> None:
    assert BinaryHead(6, 8, 1, "rms", "silu")(torch.randn(3, 4, 6)).shape == (3, 4)


def test_a_normal_head_s_loss_is_its_negative_log_likelihood() -> None:
    head = NormalHead(6, 8, 1, "none", "elu")
    mean = head(torch.randn(3, 4, 6))
    assert torch.equal(head.mean(mean), mean)
    first, second = torch.randn(2, 3, 4)
    constant = 0.5 * math.log(2.0 * math.pi)
    expected = [
        -torch.distributions.Normal(mean, 1.0).log_prob(target) - constant
        for target in (first, second)
    ]
    torch.testing.assert_close(head.loss(mean, first, second), sum(expected))
