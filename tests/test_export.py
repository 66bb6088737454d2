# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Exported networks map as ``predict`` does, without this package and without torch."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.small import make_trainer
from torchgeo_ekgnet import export
from torchgeo_ekgnet._files import file_digest
from torchgeo_ekgnet.datamodules import (
    HyperspectralDataModule,
    SalinasADataModule,
    SyntheticSceneDataModule,
)
from torchgeo_ekgnet.export import RawClassifier, export_classifier, main
from torchgeo_ekgnet.maps import load_classifier, predict_map
from torchgeo_ekgnet.tasks import HyperspectralClassificationTask
from torchgeo_ekgnet.transforms import SpectralNormalizer, SpectralPCA

EXAMPLE = Path(__file__).parents[1] / 'docs' / 'examples' / 'map_with_onnx.py'

#: Probabilities this close to each other are a tie.
TIE = 1e-4


@pytest.fixture
def trained(tmp_path: Path) -> Callable[..., tuple[HyperspectralDataModule, Path]]:
    """Train a small network for a few steps, and keep it as a run does."""

    def train(
        datamodule: HyperspectralDataModule, steps: int = 3
    ) -> tuple[HyperspectralDataModule, Path]:
        torch.manual_seed(0)
        task = HyperspectralClassificationTask(
            'ekgnet_tiny', lr=2e-3, model_options={'block_config': [1]}
        )
        trainer = make_trainer(limit_train_batches=steps, limit_val_batches=0)
        trainer.fit(task, datamodule)
        path = tmp_path / 'run' / 'checkpoints' / 'best.ckpt'
        trainer.save_checkpoint(path)
        return datamodule, path

    return train


def without_torch(program: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process that cannot import torch."""
    code = (
        'import runpy, sys\n'
        'sys.modules["torch"] = sys.modules["torchgeo_ekgnet"] = None\n'
        f'sys.argv = {[str(program), *args]!r}\n'
        f'runpy.run_path({str(program)!r}, run_name="__main__")\n'
    )
    return subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {'OMP_NUM_THREADS': '1'},
    )


def save_whole(path: Path, datamodule: HyperspectralDataModule, bands: int) -> None:
    """Save the cube with all bands of its file, of which the example reads some."""
    scene = datamodule.scene
    whole = np.zeros((*scene.label_map.shape, bands), dtype=np.float32)
    whole[:, :, scene.band_indices] = scene.cube
    np.save(path, whole)


def assert_same_map(
    found: NDArray[Any], datamodule: HyperspectralDataModule, checkpoint: Path
) -> None:
    """Compare with what predict writes, ties of probabilities apart."""
    expected = predict_map(checkpoint, datamodule.scene, probabilities=True)
    values = np.array([0, *expected.legend.values])[expected.labels]
    assert found.shape == values.shape
    assert expected.probabilities is not None
    ranked = np.sort(expected.probabilities, axis=0)
    ties = ranked[-1] - ranked[-2] < TIE
    assert ties.mean() < 0.05
    np.testing.assert_array_equal(found[~ties], values[~ties])
    assert len(np.unique(found)) > 1


def test_example_is_short() -> None:
    lines = EXAMPLE.read_text(encoding='utf-8').splitlines()
    code = [line for line in lines if line.strip() and not line.startswith('#')]
    assert len(code) <= 32


@pytest.mark.parametrize('padding_mode', ['zeros', 'reflect'])
def test_example_maps_as_predict_does(
    padding_mode: Any, trained: Any, tmp_path: Path
) -> None:
    pytest.importorskip('onnxruntime')
    datamodule, checkpoint = trained(
        SyntheticSceneDataModule(
            patch_size=5,
            padding_mode=padding_mode,
            bands=[1, 2, 3, 5, 8, 13],
            dataset_options={'rows': 24, 'cols': 20, 'num_bands': 16},
        )
    )
    main(['--ckpt_path', str(checkpoint)])
    save_whole(tmp_path / 'cube.npy', datamodule, 16)
    network = tmp_path / 'run' / 'network.onnx'
    target = tmp_path / 'map.npy'
    without_torch(EXAMPLE, str(network), str(tmp_path / 'cube.npy'), str(target))
    assert_same_map(np.load(target), datamodule, checkpoint)
    assert_described(datamodule, network)


def test_salinas_a_is_mapped_without_torch(
    real_data_dir: Path, trained: Any, tmp_path: Path
) -> None:
    pytest.importorskip('onnxruntime')
    root = real_data_dir / 'salinas_a'
    if not root.is_dir():
        pytest.skip(f'no SalinasA at {root}')
    datamodule, checkpoint = trained(
        SalinasADataModule(root=str(root), patch_size=3, bands=[*range(0, 204, 8)]), 60
    )
    network, _ = export_classifier(checkpoint, tmp_path / 'salinas_a.onnx')
    save_whole(tmp_path / 'cube.npy', datamodule, 204)
    target = tmp_path / 'map.npy'
    without_torch(EXAMPLE, str(network), str(tmp_path / 'cube.npy'), str(target))
    found = np.load(target)
    assert_same_map(found, datamodule, checkpoint)
    assert set(np.unique(found)) <= {1, 10, 11, 12, 13, 14}


def assert_described(datamodule: HyperspectralDataModule, network: Path) -> None:
    """Compare the description with the scene, and with what the file holds."""
    facts = json.loads(network.with_suffix('.json').read_text(encoding='utf-8'))
    scene = datamodule.scene
    assert facts['bands'] == scene.band_indices.tolist()
    assert scene.wavelengths is not None
    assert facts['wavelengths'] == scene.wavelengths.tolist()
    assert [item['name'] for item in facts['classes']] == list(scene.class_names)
    assert facts['patch_size'] == datamodule.patch_size
    assert facts['synthetic'] is True
    onnxruntime = pytest.importorskip('onnxruntime')
    session = onnxruntime.InferenceSession(network, providers=['CPUExecutionProvider'])
    inside = session.get_modelmeta().custom_metadata_map['torchgeo_ekgnet']
    assert json.loads(inside) == facts
    assert sorted(item.name for item in network.parent.glob('network*')) == [
        'network.json',
        'network.onnx',
    ]


def test_pt2_with_components(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datamodule, checkpoint = trained(
        SyntheticSceneDataModule(
            patch_size=3, pca=SpectralPCA(4), normalization=SpectralNormalizer('snv')
        )
    )
    path, _ = export_classifier(checkpoint, tmp_path / 'network.pt2')
    program = torch.export.load(path)
    classifier = load_classifier(checkpoint)
    raw = torch.from_numpy(datamodule.scene.read(0, 3, 0, 3))
    patches = raw.permute(2, 0, 1).unsqueeze(0).repeat(3, 1, 1, 1)
    patches[1, :, :, 0] = torch.nan
    with torch.no_grad():
        expected = RawClassifier(classifier)(patches)
        found = program.module()(patches)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    row_col = torch.tensor([[1, 1]])
    with torch.no_grad():
        own = classifier.model(datamodule.gather(row_col)).softmax(1)
    torch.testing.assert_close(expected[:1], own, rtol=1e-4, atol=1e-5)
    patches[1, 1:, :, 0] = 0.0  # one band without data is enough
    with torch.no_grad():
        assert torch.equal(RawClassifier(classifier)(patches), expected)

    # Killed between its two files, another export leaves no wrong description.
    monkeypatch.setattr(torch.export, 'export', Mock())
    monkeypatch.setattr(torch.export, 'save', Mock())
    monkeypatch.setattr(export, 'write_json', Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        export_classifier(checkpoint, path)
    assert [item.name for item in tmp_path.glob('network*')] == ['network.pt2']
    assert path.stat().st_size == 0


def test_unknown_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"format: found 'h5'.*onnx"):
        export_classifier(tmp_path / 'best.ckpt', tmp_path / 'network.h5')


@pytest.mark.parametrize(
    ('name', 'kind', 'found'),
    [
        ('a.json', 'onnx', '.json'),
        ('a.pt2', 'onnx', '.pt2'),
        ('a.onnx', 'pt2', '.onnx'),
        ('net.xyz', 'onnx', '.xyz'),
        ('net', 'pt2', ''),
    ],
)
def test_ending_of_another_format(
    tmp_path: Path, name: str, kind: str, found: str
) -> None:
    with pytest.raises(ValueError, match=rf"the ending '{found}' .* {kind}"):
        export_classifier(tmp_path / 'best.ckpt', tmp_path / name, kind)


def test_format_follows_the_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, ...]] = []

    def note(*arguments: Any) -> tuple[Path, Path]:
        seen.append(arguments[1:])
        return Path(__file__), Path(__file__)

    monkeypatch.setattr('torchgeo_ekgnet.export.export_classifier', note)
    main(['--ckpt_path', 'a.ckpt', '--output', 'net.pt2'])
    main(['--ckpt_path', 'a.ckpt', '--output', 'net.onnx'])
    monkeypatch.setenv('HOME', str(tmp_path))
    main(['--ckpt_path', 'a.ckpt', '--output=~/net.onnx'])
    assert seen[:2] == [(Path('net.pt2'), 'pt2'), (Path('net.onnx'), 'onnx')]
    assert seen[2] == (tmp_path / 'net.onnx', 'onnx')
    with pytest.raises(SystemExit):
        main(['--ckpt_path', 'a.ckpt', '--output', ''])
    assert len(seen) == 3


@pytest.mark.parametrize(
    ('name', 'found'),
    [
        ('run.pt2', r'replace .*run\.json'),
        ('best.ckpt', 'the checkpoint itself'),
        ('same.ckpt', 'the checkpoint itself'),
    ],
)
def test_files_of_the_run_are_not_replaced(
    tmp_path: Path, name: str, found: str
) -> None:
    (tmp_path / 'best.ckpt').write_text('weights')
    os.link(tmp_path / 'best.ckpt', tmp_path / 'same.ckpt')
    (tmp_path / 'run.json').write_text('{"input": "patches"}')
    with pytest.raises(ValueError, match=found):
        export_classifier(tmp_path / 'best.ckpt', tmp_path / name, 'pt2')
    assert (tmp_path / 'best.ckpt').read_text() == 'weights'
    assert (tmp_path / 'run.json').read_text() == '{"input": "patches"}'


def test_the_description_of_another_network_is_not_replaced(tmp_path: Path) -> None:
    checkpoint = tmp_path / 'best.ckpt'
    checkpoint.write_text('weights')
    (tmp_path / 'network.onnx').write_text('another')
    facts = tmp_path / 'network.json'

    def check(name: str, digest: str) -> None:
        told = {'input': export.INPUT, 'output': export.OUTPUT}
        facts.write_text(json.dumps({**told, 'checkpoint_digest': digest}))
        export._check_replaced(tmp_path / name, facts, checkpoint)

    with pytest.raises(ValueError, match=r'network\.json, found that of network\.onnx'):
        check('network.pt2', 'other')
    check('network.onnx', 'other')  # replaced as well
    check('network.pt2', file_digest(checkpoint))


def test_a_folder_in_the_place_of_the_network_is_named_first(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, path = trained(SyntheticSceneDataModule(patch_size=3))
    folder = tmp_path / 'network.pt2'
    folder.mkdir()
    monkeypatch.setattr(torch.export, 'export', lambda *_, **__: pytest.fail('late'))
    with pytest.raises(IsADirectoryError, match=r'network\.pt2'):
        export_classifier(path, folder)


def test_folder_that_cannot_be_written_to_is_named_first(
    trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(*args: Any, **kwargs: Any) -> None:
        raise AssertionError('exported before the folder was tried')

    _, path = trained(SyntheticSceneDataModule(patch_size=3))
    monkeypatch.setattr(torch.export, 'export', export)
    (tmp_path / 'file').write_text('')
    with pytest.raises(NotADirectoryError, match=r'output folder .*file'):
        export_classifier(path, tmp_path / 'file' / 'network.pt2')


def test_missing_checkpoint_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'best\.ckpt'):
        export_classifier(tmp_path / 'best.ckpt', tmp_path / 'network.pt2')
    assert list(tmp_path.iterdir()) == []
