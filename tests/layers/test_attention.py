# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Recording and replacing attention."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from torchgeo_ekgnet.layers.attention import mean_attention, record_attention

from ..graphs import CountingBackend
from .mappings import expert_network


def own_means(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """Average the attention over a batch."""
    with torch.no_grad(), record_attention(model) as recorded:
        model(x)
    return {name: attention.mean(0) for name, attention in recorded.items()}


def test_record_attention() -> None:
    model, x = expert_network(), torch.randn(4, 2, 3, 3, 3)
    with torch.no_grad(), record_attention(model) as recorded:
        assert not recorded
        y = model(x)
        assert list(recorded) == ['0', '2']
        assert recorded['0'].equal(model[0].attention_weights(x))
        assert recorded['2'].shape == (4, 2)
        recorded.clear()
    with torch.no_grad():
        assert model(x).equal(y)
    assert not recorded


def test_mean_attention_makes_static_layers() -> None:
    model, x = expert_network(), torch.randn(4, 2, 3, 3, 3)
    means = own_means(model, x)
    with torch.no_grad():
        free = model(x)
        with mean_attention(model, means):
            fixed = model(x)
        static: Any = nn.Conv3d(2, 4, 1)
        weights = means['0'].float()
        static.weight.copy_(torch.einsum('k,koidhw->oidhw', weights, model[0].weight))
        static.bias.copy_(weights @ model[0].bias)
        hidden = static(x).relu()
        with mean_attention(model, means):
            torch.testing.assert_close(model[2](hidden), fixed, rtol=1e-4, atol=1e-5)
        assert model(x).equal(free)
    assert (free - fixed).abs().max() > 1e-4
    with (
        pytest.raises(ValueError, match=r"'2' has 2 experts, found no entry"),
        mean_attention(model, {'0': means['0']}),
    ):
        pass
    with (
        pytest.raises(ValueError, match=r"'0' has 3 experts, .* shape \(2,\)"),
        mean_attention(model, {'0': means['2'], '2': means['2']}),
    ):
        pass


@pytest.mark.parametrize('wrapped', [False, True])
def test_compiled_network_gives_the_eager_results(wrapped: bool) -> None:
    torch.compiler.reset()
    model, x = expert_network(), torch.randn(4, 2, 3, 3, 3)
    means = own_means(model, x)
    with torch.no_grad():
        with mean_attention(model, means):
            expected = model(x)
        free = model(x)
        compiled: Any = model
        if wrapped:
            compiled = torch.compile(model, backend='eager')
        else:
            model.compile(backend='eager')
        torch.testing.assert_close(compiled(x), free)
        with mean_attention(compiled, means):
            assert compiled(x).equal(expected)
        with record_attention(compiled) as recorded:
            compiled(x)
        assert list(recorded) == ['0', '2']
        torch.testing.assert_close(compiled(x), free)
    assert (free - expected).abs().max() > 1e-4


def test_overlapping_records_give_the_compiler_back() -> None:
    """Two callbacks enter one after the other and leave in the same order."""
    torch.compiler.reset()
    backend = CountingBackend()
    model, x = expert_network(), torch.randn(4, 2, 3, 3, 3)
    compiled: Any = torch.compile(model, backend=backend)
    first, second = record_attention(model), record_attention(model)
    with torch.no_grad():
        first.__enter__()
        second.__enter__()
        compiled(x)
        first.__exit__(None, None, None)
        compiled(x)
        assert backend.graphs == 0
        second.__exit__(None, None, None)
        compiled(x)
    assert backend.graphs > 0
