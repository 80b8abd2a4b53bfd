from dataclasses import replace
from math import log

import pytest
import torch

from wm_distributed.collective import Collective
from wm_distributed.families.iris.codebook import Codebook, perplexity
from wm_distributed.families.iris.config import TokenizerConfig

CONFIG = TokenizerConfig(vocabulary=3, width=2)
CODES = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])


def codebook(config: TokenizerConfig = CONFIG) -> Codebook:
    book = Codebook(config)
    book.codes.data.copy_(CODES)
    return book


def test_each_vector_gets_the_nearest_code() -> None:
    vectors = torch.tensor([[1.9, 0.1], [2.1, 0.1], [0.0, 3.0], [-5.0, -5.0]])
    quantized = codebook()(vectors)
    assert quantized.tokens.tolist() == [0, 1, 2, 0]
    torch.testing.assert_close(quantized.straight.detach(), CODES[[0, 1, 2, 0]])


def test_the_gradient_passes_straight_through_to_the_vectors() -> None:
    vectors = torch.tensor([[3.0, 1.0]], requires_grad=True)
    (codebook()(vectors).straight * torch.tensor([[5.0, -7.0]])).sum().backward()
    assert vectors.grad is not None
    assert vectors.grad.tolist() == [[5.0, -7.0]]


def test_the_loss_draws_codes_to_vectors_and_vectors_to_codes_with_their_own_weights() -> None:
    book = codebook(replace(CONFIG, commitment=0.25))
    vectors = torch.tensor([[3.0, 1.0]], requires_grad=True)
    loss = book(vectors).loss
    loss.backward()
    assert loss.item() == pytest.approx(1.25 * (1.0 + 1.0) / 2)
    assert vectors.grad is not None
    assert vectors.grad.tolist() == [[-0.25, 0.25]]
    assert book.codes.grad is not None
    assert book.codes.grad.tolist() == [[0.0, 0.0], [1.0, -1.0], [0.0, 0.0]]


class TwoRanks(Collective):
    """Rank 0 of two, of which the other saw ``other`` vectors with these tokens."""

    def __init__(self, others: list[torch.Tensor]) -> None:
        super().__init__()
        self._others = others

    def mean_(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.add_(self._others.pop(0)).div_(2.0)


def test_average_codes_are_the_weighted_means_of_what_all_ranks_saw() -> None:
    book = codebook(replace(CONFIG, codebook="ema", ema_decay=0.5, revive_below=0.0))
    book.counts.copy_(torch.tensor([2.0, 2.0, 2.0]))
    book.sums.copy_(2.0 * CODES)
    mine = torch.tensor([[5.0, 1.0], [5.0, 3.0]])
    counts = torch.tensor([0.0, 2.0, 0.0])  # the other rank's: two vectors near the second code
    sums = torch.tensor([[0.0, 0.0], [6.0, 0.0], [0.0, 0.0]])
    book.follow(mine, torch.tensor([1, 1]), TwoRanks([counts, sums]))
    # Counts: (2 + 2) / 2 = 2 new ones; sums: ([10, 4] + [6, 0]) / 2 = [8, 2]; half of each is old.
    assert book.counts.tolist() == [1.0, 2.0, 1.0]
    torch.testing.assert_close(book.codes, torch.tensor([[0.0, 0.0], [4.0, 0.5], [0.0, 4.0]]))


def test_codes_that_stand_for_nothing_move_to_vectors_of_the_batch() -> None:
    book = codebook(replace(CONFIG, codebook="ema", ema_decay=0.9, revive_below=0.1))
    book.counts.copy_(torch.tensor([3.0, 0.0, 3.0]))
    book.sums.copy_(book.counts[:, None] * CODES)
    vectors = torch.tensor([[-1.0, -1.0], [-1.0, -1.0]])
    book.follow(vectors, torch.tensor([0, 0]), Collective())
    assert book.codes[1].tolist() == [-1.0, -1.0]
    torch.testing.assert_close(book.codes[2], CODES[2])  # used before: it stays


def test_without_revival_such_codes_stay_where_they_are_dead() -> None:
    book = codebook(replace(CONFIG, codebook="ema", revive_below=0.0))
    book.counts.copy_(torch.tensor([3.0, 1e-3, 3.0]))
    book.sums.copy_(book.counts[:, None] * CODES)
    for _ in range(5):
        book.follow(torch.zeros(4, 2), torch.zeros(4, dtype=torch.long), Collective())
    torch.testing.assert_close(book.codes[1], CODES[1])


def test_codes_that_are_averages_get_no_gradient() -> None:
    book = codebook(replace(CONFIG, codebook="ema"))
    assert not list(book.parameters())
    vectors = torch.tensor([[3.0, 1.0]], requires_grad=True)
    book(vectors).loss.backward()
    assert vectors.grad is not None
    assert vectors.grad.tolist() == [[-1.0, 1.0]]


def test_perplexity_counts_the_codes_in_use() -> None:
    assert perplexity(torch.tensor([0, 1, 2, 3]), 8).item() == pytest.approx(4.0)
    assert perplexity(torch.zeros(5, dtype=torch.long), 8).item() == pytest.approx(1.0)
    share = torch.tensor([0, 0, 0, 1])
    entropy = -(0.75 * log(0.75) + 0.25 * log(0.25))
    assert perplexity(share, 8).log().item() == pytest.approx(entropy)
