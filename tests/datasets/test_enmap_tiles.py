# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Tests that the configuration in the docs trains and maps the real EnMAP tiles."""

import re
from pathlib import Path

import pytest
import rasterio
import yaml

from torchgeo_ekgnet.main import main

#: A network that maps 18,432 pixels in seconds.
SMALL = (
    '--model.init_args.model=ekgnet_tiny',
    '--model.init_args.model_options={block_config: [1]}',
)

PAGE = Path(__file__).parents[2] / 'docs' / 'scenes.md'


def test_configuration_of_the_docs(
    real_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = real_data_dir / 'enmap_potsdam'
    if not root.is_dir():
        pytest.skip('no EnMAP tiles')
    blocks = re.findall(r'```yaml\n(.*?)```', PAGE.read_text(), flags=re.DOTALL)
    [block] = [text for text in blocks if 'enmap_potsdam' in text]
    config = yaml.safe_load(block)
    config['data']['init_args']['root'] = str(root)
    (tmp_path / 'enmap.yaml').write_text(yaml.safe_dump(config))
    monkeypatch.chdir(tmp_path)
    common = [
        '--config',
        'custom',
        '--config',
        'enmap.yaml',
        '--trainer.accelerator=cpu',
    ]
    few = ['--trainer.max_epochs=1', '--trainer.limit_train_batches=2']
    few += ['--trainer.limit_val_batches=1', '--trainer.log_every_n_steps=1']
    small = [*SMALL, '--data.patch_size=3']

    def run(*arguments: str) -> None:
        main(list(arguments))

    run('fit', *common, *few, *small)
    [checkpoint] = tmp_path.rglob('last.ckpt')
    run('predict', *common, *small, '--ckpt_path', str(checkpoint))
    [raster] = tmp_path.rglob('map.tif')
    with rasterio.open(raster) as written:
        assert written.shape == (192, 160)
        assert (written.read(1) > 0).sum() == 18 * 32 * 32
        assert written.crs.to_epsg() == 32633


def test_raster_of_the_area_and_tiles_of_labels(
    real_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = real_data_dir / 'enmap_potsdam'
    if not root.is_dir():
        pytest.skip('no EnMAP tiles')
    monkeypatch.chdir(tmp_path)
    main(
        [
            *('fit', '--config', 'custom', '--name', 'area', '--data.root', str(root)),
            *('--data.cube', 'images/*.tif', *SMALL),
            *('--data.labels', 'enmap_landcover_unstyled.tif'),
            *('--trainer.accelerator=cpu', '--trainer.max_epochs=1'),
            *('--trainer.limit_train_batches=2', '--trainer.limit_val_batches=1'),
            *('--trainer.log_every_n_steps=1', '--data.patch_size=3'),
        ]
    )
    main(['predict', '--name', 'area', '--data.labels', 'labels/*.tif'])
    [raster] = tmp_path.rglob('map.tif')
    with rasterio.open(raster) as written:
        assert (written.read(1) > 0).sum() == 18 * 32 * 32
