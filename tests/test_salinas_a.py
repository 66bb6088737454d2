# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The whole path on a real scene: file, split, training, checkpoint, accuracy."""

import json
from pathlib import Path

import pytest
from torchgeo.main import main as torchgeo_main

from torchgeo_ekgnet.commands import resolve_config
from torchgeo_ekgnet.main import main

BEST = 'runs/salinas_a/version_0/checkpoints/best.ckpt'


@pytest.mark.timeout(600)
def test_torchgeo_trains_and_tests_salinas_a(
    real_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = real_data_dir / 'salinas_a'
    if not root.is_dir():
        pytest.skip(f'no SalinasA at {root}')
    monkeypatch.chdir(tmp_path)
    common = ['--config', resolve_config('salinas_a'), '--data.root', str(root)]
    common += [
        '--data.split.train',
        '0.25',
        '--data.patch_size',
        '5',
        '--trainer.accelerator',
        'cpu',
    ]
    common += ['--trainer.enable_progress_bar', 'false']
    # Ten components are enough: three seeds end at 0.9968 to 0.9986.
    common += ['--data.pca.num_components', '10']
    torchgeo_main(['fit', *common, '--trainer.max_epochs', '8', '--model.lr', '3e-3'])
    torchgeo_main(['test', *common, '--ckpt_path', BEST])
    run = tmp_path / 'runs' / 'salinas_a' / 'version_0'
    report = json.loads((run / 'test.json').read_text(encoding='utf-8'))
    assert report['model'] == 'ekgnet_tiny'
    assert report['scene'] is not None
    assert report['synthetic'] is False
    sizes = report['split']['sizes']
    assert sizes['train'] == pytest.approx(0.25 * 5348, rel=0.01)
    assert sum(report['counts']) == sizes['test']
    assert report['overall_accuracy'] >= 0.99

    with pytest.raises(ValueError, match='split'):
        main(['test', *common, '--ckpt_path', BEST, '--data.split.seed', '1332'])
