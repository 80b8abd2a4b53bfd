import torch

from wm_distributed.ops.returns import lambda_return


def naive(
    reward: list[float], discount: list[float], value: list[float], lam: float, last: list[bool]
) -> list[float]:
    returns = [value[-1]]
    for t in reversed(range(len(reward) - 1)):
        keep = 0.0 if last[t + 1] else lam
        following = (1 - keep) * value[t + 1] + keep * returns[0]
        returns.insert(0, reward[t + 1] + discount[t + 1] * following)
    return returns[:-1]


def test_returns_equal_hand_worked_numbers() -> None:
    # G[1] = 3 + 0.5 * 8 = 7; G[0] = 2 + 0.5 * (0.5 * 4 + 0.5 * 7) = 4.75
    returns = lambda_return(
        reward=torch.tensor([[99.0, 2.0, 3.0]]),
        discount=torch.tensor([[99.0, 0.5, 0.5]]),
        bootstrap=torch.tensor([[99.0, 4.0, 8.0]]),
        lam=0.5,
    )
    assert returns.tolist() == [[4.75, 7.0]]


def test_returns_equal_a_naive_loop_with_ends() -> None:
    reward, value = torch.randn(2, 3, 9).unbind()
    discount = torch.rand(3, 9)
    last = torch.rand(3, 9) < 0.3
    returns = lambda_return(reward, discount, value, 0.9, is_last=last)
    for row in range(3):
        expected = naive(
            reward[row].tolist(),
            discount[row].tolist(),
            value[row].tolist(),
            0.9,
            last[row].tolist(),
        )
        torch.testing.assert_close(returns[row], torch.tensor(expected))


def test_nothing_behind_the_end_of_an_episode_counts() -> None:
    reward, value = torch.randn(2, 1, 6).unbind()
    discount = torch.ones(1, 6)
    last = torch.tensor([[False, False, True, False, False, False]])
    before = lambda_return(reward, discount, value, 0.95, is_last=last)
    reward[:, 3:] += 100.0
    value[:, 3:] -= 100.0
    after = lambda_return(reward, discount, value, 0.95, is_last=last)
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.equal(before[:, 2:], after[:, 2:])


def test_a_terminal_state_is_worth_nothing() -> None:
    returns = lambda_return(
        reward=torch.tensor([[0.0, 1.0]]),
        discount=torch.tensor([[1.0, 0.0]]),
        bootstrap=torch.tensor([[5.0, 5.0]]),
        lam=0.95,
        is_last=torch.tensor([[False, True]]),
    )
    assert returns.tolist() == [[1.0]]
