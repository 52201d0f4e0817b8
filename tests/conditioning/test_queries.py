"""Positions of learnable queries."""

import torch

from loomvideo.conditioning.queries import positions_with_queries


def test_the_first_query_shares_the_position_of_the_last_token_and_each_next_is_one_further():
    positions = torch.tensor([[0, 1, 5], [0, 1, 6], [0, 1, 7]])[:, None]
    continued = positions_with_queries(positions, 3)
    assert continued[:, 0].tolist() == [[0, 1, 5, 5, 6, 7], [0, 1, 6, 6, 7, 8], [0, 1, 7, 7, 8, 9]]


def test_padding_on_the_right_has_no_part():
    positions = torch.arange(4).expand(3, 2, -1)
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])
    continued = positions_with_queries(positions, 2, mask)
    assert continued[:, :, 4:].tolist() == [[[1, 2], [3, 4]]] * 3


def test_no_queries_change_nothing():
    positions = torch.arange(4).expand(3, 2, -1)
    assert torch.equal(positions_with_queries(positions, 0), positions)
