# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Analysis of expert use, and the worth of attention."""

import json
import math
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from torchgeo_ekgnet.experts import (
    ExpertUseReport,
    attention_means,
    plot_expert_use,
    worth_of_attention,
)
from torchgeo_ekgnet.layers import DynamicExpertConv3d
from torchgeo_ekgnet.layers.attention import mean_attention
from torchgeo_ekgnet.layers.modes import evaluating

from .layers.mappings import expert_network


def test_modes_of_layers_are_left_as_they_were() -> None:
    layers = expert_network().train()
    layers[0].mapping.eval()  # frozen apart
    before = [module.training for module in layers.modules()]
    images = torch.randn(4, 2, 3, 3, 3)
    attention_means(layers, [{'image': images, 'label': torch.zeros(4).long()}])
    assert [module.training for module in layers.modules()] == before


def test_a_map_of_another_thread_does_not_change_modes() -> None:
    """Whoever ends last gives the network back in training mode."""
    layers = expert_network().train()
    images = torch.randn(4, 2, 3, 3, 3)
    with ExitStack() as map_of_a_scene:

        def batches() -> Iterator[dict[str, torch.Tensor]]:
            map_of_a_scene.enter_context(evaluating(layers))
            yield {'image': images}

        attention_means(layers, batches())
        assert not layers.training
    assert all(module.training for module in layers.modules())


def test_attention_means_weigh_samples_alike() -> None:
    model, x = expert_network(), torch.randn(4, 2, 3, 3, 3)
    means = attention_means(model, [{'image': x[:3]}, {'image': x[3:]}])
    with torch.no_grad():
        expected = model[0].attention_weights(x).double().mean(0)
    torch.testing.assert_close(means['0'], expected)
    compiled: Any = torch.compile(model, backend='eager')
    torch.testing.assert_close(attention_means(compiled, [{'image': x}]), means)


def test_report_on_known_attention() -> None:
    model = expert_network()
    report = ExpertUseReport(model, 3)
    # Layer 0: class 0 uses expert 0, class 1 expert 1; layer 2: no preference.
    first = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0]])
    even = torch.full((4, 2), 0.5)
    report.update({'0': first[:2], '2': even[:2]}, torch.tensor([0, 1]))
    report.update({'0': first[2:], '2': even[2:]}, torch.tensor([0, 1]))
    assert report.samples == 4
    assert report.counts.tolist() == [2, 2, 0]
    np.testing.assert_allclose(report.mean('0'), [0.5, 0.5, 0])
    np.testing.assert_allclose(report.per_class('0')[:2], [[1, 0, 0], [0, 1, 0]])
    assert np.isnan(report.per_class('0')[2]).all()
    assert report.entropy('0') == 0
    assert report.entropy('2') == pytest.approx(math.log(2))
    assert report.information('0') == pytest.approx(math.log(2))
    assert report.information('2') == pytest.approx(0, abs=1e-12)
    assert report.normalised_entropy() == pytest.approx(0.5)
    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert content['layers']['0']['log_experts'] == pytest.approx(math.log(3))
    assert content['layers']['0']['per_class'][2] is None
    twice = ExpertUseReport(model, 3)
    twice.load_vector(2 * report.vector())
    assert twice.samples == 8
    assert twice.entropy('2') == pytest.approx(report.entropy('2'))
    np.testing.assert_allclose(twice.per_class('0'), report.per_class('0'))
    figure = plot_expert_use(report, ['oak', 'cost $5_$', 'a $\\frac$'])
    titles = [axis.get_title() for axis in figure.axes]
    assert any('H/log K 1.00' in title for title in titles)
    assert any('H/log K 0.00' in title for title in titles)
    figure.canvas.draw()  # names are text, not formulas
    plt.close(figure)


def test_one_expert_chooses_nothing() -> None:
    one = nn.Sequential(*expert_network(), DynamicExpertConv3d(5, 2, 1, num_experts=1))
    report = ExpertUseReport(one, 2)
    even = {name: torch.full((2, k), 1 / k) for name, k in (('0', 3), ('2', 2))}
    report.update({**even, '3': torch.ones(2, 1)}, torch.tensor([0, 1]))
    assert report.normalised_entropy() == pytest.approx(1)
    figure = plot_expert_use(report)
    assert 'H/log K 0.00, I 0.000' in figure.axes[2].get_title()
    plt.close(figure)


def test_experts_of_every_pixel() -> None:
    """A patch counts as much as another, with the mean over its pixels."""
    options: dict[str, Any] = {'whole_spectrum': True, 'pixelwise': True}
    model = timm.create_model('ekgnet_tiny', in_chans=8, num_classes=2, **options)
    model.eval()
    x = torch.randn(5, 8, 3, 3)
    pixels = x.permute(0, 2, 3, 1).reshape(-1, 8, 1, 1)
    patches = attention_means(model, [{'image': x[:2]}, {'image': x[2:]}])
    torch.testing.assert_close(patches, attention_means(model, [{'image': pixels}]))
    report = ExpertUseReport(expert_network(), 2)
    first = torch.tensor([[1.0, 0, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0]])
    even = torch.full((2, 2), 0.5)
    report.update({'0': first, '2': even.repeat(2, 1)}, torch.tensor([0, 1]))
    expected = np.array([[0.5, 0.5, 0], [1, 0, 0]])
    np.testing.assert_allclose(report.per_class('0'), expected)
    assert report.entropy('0') == 0
    assert report.entropy('2') == pytest.approx(math.log(2))


def test_report_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match='has no DynamicExpertConv3d'):
        ExpertUseReport(nn.Linear(2, 2), 3)
    report = ExpertUseReport(expert_network(), 2)
    with pytest.raises(ValueError, match="expected 2 samples of layer '0', found none"):
        report.update({}, torch.tensor([0, 1]))
    first = {'0': torch.full((2, 3), 1 / 3), '2': torch.full((2, 2), 0.5)}
    with pytest.raises(ValueError, match=r'label: found -1 to 1, expected .* 0 to 1'):
        report.update(first, torch.tensor([-1, 1]))
    with pytest.raises(ValueError, match="expected 2 samples of layer '0', found 3"):
        report.update({**first, '0': torch.full((3, 3), 1 / 3)}, torch.tensor([0, 1]))
    # An empty batch is none.
    report.update({k: v[:0] for k, v in first.items()}, torch.empty(0).long())
    assert report.samples == 0
    with pytest.raises(ValueError, match='found no sample'):
        attention_means(expert_network(), [])


def test_worth_of_attention() -> None:
    torch.manual_seed(0)
    model = timm.create_model('ekgnet_tiny', in_chans=6, num_classes=3)
    label = torch.arange(30) % 3
    batch = {'image': torch.randn(30, 6, 3, 3) + 2 * label.view(-1, 1, 1, 1)}
    batches = [{**batch, 'label': label}]
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        F.cross_entropy(model(batch['image']), label).backward()
        optimizer.step()
    figures = worth_of_attention(model, batches, batches, 3)
    assert figures['dynamic'].overall > 0.9
    assert figures['dynamic'].counts.tolist() == [10, 10, 10]
    assert model.training
    # What a network says with its mean attention is not what it says with its own.
    other = nn.Sequential(expert_network(), nn.AdaptiveAvgPool3d(1), nn.Flatten())
    said = [{'image': 10 * torch.randn(100, 2, 3, 3, 3)}]
    with mean_attention(other, attention_means(other, said)), torch.no_grad():
        said[0]['label'] = other(said[0]['image']).argmax(1)
    figures = worth_of_attention(other, said, said, 5)
    assert figures['mean'].overall == 1 > figures['dynamic'].overall
    with pytest.raises(ValueError, match='num_classes: found 2, expected 3'):
        worth_of_attention(model, batches, batches, 2)
    with pytest.raises(ValueError, match=r'label: found 1 to 3, expected .* 0 to 2'):
        worth_of_attention(model, batches, [{**batches[0], 'label': label + 1}], 3)
    with pytest.raises(ValueError, match='test: found no sample'):
        worth_of_attention(model, batches, iter(batches), 3)
