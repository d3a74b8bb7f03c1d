"""The control of shuffled connectors, against a connector whose rows were permuted by hand."""

import pytest
import torch
from torch import nn

from mtllm_ds.config.sections import ConnectorSettings
from mtllm_ds.errors import UserError
from mtllm_ds.evaluation.answers.shuffled_connector import shuffle_connector
from mtllm_ds.models.connector import build_connector


class Stack(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.connector = build_connector(ConnectorSettings(type=kind), 8, 24, seed=0, dtype=torch.float32)


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_output_rows_are_permuted_always_alike(kind):
    stack, by_hand = Stack(kind), Stack(kind)
    last = by_hand.connector if kind == "linear" else by_hand.connector[-1]
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    assert not torch.equal(order, torch.arange(24))
    last.weight.data, last.bias.data = last.weight.data[order], last.bias.data[order]
    states = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(1))
    plain = stack.connector(states)
    handle = shuffle_connector(stack)
    torch.testing.assert_close(stack.connector(states), by_hand.connector(states))
    torch.testing.assert_close(stack.connector(states), stack.connector(states), rtol=0, atol=0)
    handle.remove()
    torch.testing.assert_close(stack.connector(states), plain, rtol=0, atol=0)
    shuffle_connector(stack, seed=1)
    assert not torch.equal(stack.connector(states), by_hand.connector(states))


def test_a_model_without_a_connector_is_refused():
    with pytest.raises(UserError, match="no connector"):
        shuffle_connector(nn.Linear(2, 2))
