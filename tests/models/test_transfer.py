# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Saving, sharing, and moving to another scene."""

import copy
import functools
import pickle
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from timm.utils import ModelEmaV3
from torch import nn

from torchgeo_ekgnet.tasks.networks import load_weights

from .conftest import BANDS, SHALLOW, SIZES, shallow_model, small_input

OTHER_BANDS = 17


def shapes(name: str, bands: int) -> list[torch.Size]:
    """Sizes of a model's parameters, made without memory."""
    with torch.device('meta'):
        model = timm.create_model(name, in_chans=bands)
    return [p.shape for p in model.parameters()]


#: Networks with parameters whose sizes follow the number of bands.
BOUND = {
    'cnn3d',
    'ekgnet_spatial',
    'ekgnet_spectral',
    'spectralformer',
    'spectralformer_pixel',
    'ssrn',
}

PORTABLE = [name for name in SIZES if name not in BOUND]


def trained(name: str) -> Any:
    """Create a model whose statistics and weights are not the initial ones."""
    return copy.deepcopy(_trained(name))


@functools.cache
def _trained(name: str) -> Any:
    """Train a model once."""
    model = shallow_model(name).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model(small_input(name, 4)).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    return model.eval()


def assert_same_body(model: nn.Module, source: nn.Module) -> None:
    """All but the classifier is equal."""
    expected = source.state_dict()
    for key, value in model.state_dict().items():
        if not key.startswith('classifier.'):
            assert value.equal(expected[key]), key


@pytest.mark.parametrize('name', SIZES)
def test_bound_to_the_bands(name: str) -> None:
    same = shapes(name, BANDS) == shapes(name, OTHER_BANDS)
    assert same == (name not in BOUND)


@pytest.mark.parametrize('name', SIZES)
def test_copies(name: str) -> None:
    model, x = trained(name), small_input(name)
    expected = model(x)
    assert copy.deepcopy(model)(x).equal(expected)
    assert pickle.loads(pickle.dumps(model))(x).equal(expected)


@pytest.mark.parametrize('name', SIZES)
def test_everything_can_be_drawn_anew(name: str) -> None:
    model = shallow_model(name).train()
    start = {
        key: value.clone()
        for key, value in model.state_dict().items()
        if key.endswith(('temperature', 'residual_weight', 'inactive'))
    }
    with torch.no_grad():
        for value in model.state_dict().values():
            value.fill_(7 if value.dtype == torch.long else float('nan'))
    for module in model.modules():
        if hasattr(module, 'reset_parameters'):
            module.reset_parameters()
    found = model.state_dict()
    assert not [key for key, value in found.items() if value.isnan().any()]
    for key, value in start.items():
        assert found[key].equal(value), key


def test_temperatures_that_were_scalars(tmp_path: Path) -> None:
    model, x = trained('ekgnet_tiny'), small_input('ekgnet_tiny')
    state = model.state_dict()
    for key in [key for key in state if key.endswith('raw_temperature')]:
        state[key] = state[key].squeeze()
    path = tmp_path / 'older.pth'
    torch.save(state, path)
    again = shallow_model('ekgnet_tiny', checkpoint_path=str(path))
    assert again(x).equal(model(x))
    assert load_weights(other := shallow_model('ekgnet_tiny'), str(path))[0]
    assert other(x).equal(model(x))


@pytest.mark.parametrize('name', SIZES)
def test_save_load_save(name: str, tmp_path: Path) -> None:
    model, x = trained(name), small_input(name)
    plain, tensors = tmp_path / 'net.pth', tmp_path / 'net.safetensors'
    torch.save(model.state_dict(), plain)
    save_file(model.state_dict(), tensors)
    for path in (plain, tensors):
        again = shallow_model(name, checkpoint_path=str(path))
        assert again(x).equal(model(x))
        save_file(again.state_dict(), tmp_path / 'again.safetensors')
        first, second = load_file(tensors), load_file(tmp_path / 'again.safetensors')
        assert first.keys() == second.keys()
        assert all(first[key].equal(second[key]) for key in first)


@pytest.mark.parametrize(
    ('name', 'prefix'),
    [
        *((name, 'model.') for name in SIZES),
        ('ekgnet_tiny', 'model._orig_mod.'),
        ('ekgnet_tiny', 'module.model.'),
    ],
)
def test_checkpoint_of_the_task(name: str, prefix: str, tmp_path: Path) -> None:
    """timm's own argument reads what fit has written."""
    model, path = trained(name), tmp_path / 'best.ckpt'
    state = {f'{prefix}{key}': value for key, value in model.state_dict().items()}
    torch.save({'state_dict': state, 'hyper_parameters': {'model': name}}, path)
    x = small_input(name)
    assert shallow_model(name, checkpoint_path=str(path))(x).equal(model(x))


@pytest.mark.parametrize('name', SIZES)
def test_what_does_not_fit_is_one_sentence(name: str) -> None:
    model = shallow_model(name)
    shapes = {key: torch.zeros(1) for key in model.state_dict()}
    for state in (shapes, {'other.weight': torch.zeros(1)}, {}):
        with pytest.raises(RuntimeError, match='the weights do not fit') as caught:
            model.load_state_dict(state)
        assert len(str(caught.value)) < 1000 and '\n' not in str(caught.value)


@pytest.mark.parametrize(
    ('name', 'prefix'), [*((name, '') for name in PORTABLE), ('ekgnet_tiny', 'model.')]
)
def test_overlay_moves_to_another_scene(name: str, prefix: str, tmp_path: Path) -> None:
    source = trained(name)
    path = tmp_path / 'net.pth'
    state = {f'{prefix}{key}': value for key, value in source.state_dict().items()}
    torch.save({'state_dict': state} if prefix else state, path)
    model = shallow_model(
        name,
        pretrained=True,
        pretrained_cfg_overlay={'file': str(path)},
        in_chans=OTHER_BANDS,
        num_classes=9,
    )
    assert_same_body(model, source)
    assert model(small_input(name, bands=OTHER_BANDS)).shape == (1, 9)
    features = shallow_model(
        name,
        pretrained=True,
        pretrained_cfg_overlay={'file': str(path)},
        features_only=True,
    )
    x = small_input(name)
    expected = source.forward_intermediates(x, intermediates_only=True)
    torch.testing.assert_close(features(x), expected)
    if prefix:  # the classes are those of the file, not of the configuration
        torch.save(model.state_dict(), path)
        for classes in (9, 16):
            other = shallow_model(
                name,
                pretrained=True,
                pretrained_cfg_overlay={'file': str(path)},
                num_classes=classes,
            )
            kept = other.classifier.weight.equal(model.classifier.weight)
            assert kept == (classes == 9)


@pytest.mark.parametrize('name', SIZES)
def test_local_directory(name: str, tmp_path: Path) -> None:
    source, x = trained(name), small_input(name)
    save_for_hf(source, str(tmp_path), safe_serialization=True)
    shape = SHALLOW.get(name, {})
    model = timm.create_model(f'local-dir:{tmp_path}', pretrained=True, **shape).eval()
    assert model.in_chans == BANDS
    assert model.num_classes == 16
    assert model(x).equal(source(x))
    if name in PORTABLE:
        other = timm.create_model(
            f'local-dir:{tmp_path}',
            pretrained=True,
            in_chans=OTHER_BANDS,
            num_classes=9,
            **shape,
        )
        assert_same_body(other, source)
        assert other.eval()(small_input(name, bands=OTHER_BANDS)).shape == (1, 9)


@pytest.mark.parametrize('name', SIZES)
def test_moving_average(name: str, tmp_path: Path) -> None:
    model = shallow_model(name).train()
    average = ModelEmaV3(model, decay=0.5)
    start = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model(small_input(name, 4)).square().mean().backward()
    optimizer.step()
    average.update(model)
    for key, value in average.module.state_dict().items():
        if value.is_floating_point():
            expected = (start[key] + model.state_dict()[key]) / 2
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
    path = tmp_path / 'ema.pth'
    torch.save({'state_dict_ema': average.module.state_dict()}, path)
    again, x = shallow_model(name, checkpoint_path=str(path)), small_input(name)
    assert again(x).equal(average.module.eval()(x))


@pytest.mark.parametrize('name', ['ekgnet_tiny', 'ekgnet_base_reference'])
def test_torchgeo_weights(name: str, tmp_path: Path) -> None:
    from torchgeo.trainers import ClassificationTask

    first = ClassificationTask(name, in_channels=BANDS, num_classes=16)
    path = tmp_path / 'first.ckpt'
    torch.save(
        {
            'state_dict': {
                f'model.{k}': v for k, v in first.model.state_dict().items()
            },
            'hyper_parameters': {'model': name},
        },
        path,
    )
    with pytest.warns(UserWarning, match='num classes'):
        second = ClassificationTask(
            name, weights=str(path), in_channels=OTHER_BANDS, num_classes=9
        )
    assert_same_body(second.model, first.model)
    x = small_input(name, bands=OTHER_BANDS)
    assert second.eval()(x).shape == (1, 9)
    frozen = ClassificationTask(
        name, in_channels=BANDS, num_classes=16, freeze_backbone=True
    )
    trainable = {n for n, p in frozen.model.named_parameters() if p.requires_grad}
    assert trainable == {'classifier.weight', 'classifier.bias'}
