# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The page "Baselines": its code runs, its table is true."""

import re
from pathlib import Path
from typing import Any

import timm

PAGE = Path(__file__).parents[2] / 'docs' / 'baselines.md'


def test_page() -> None:
    blocks = re.findall(r'```python\n(.*?)```', PAGE.read_text('utf-8'), re.DOTALL)
    assert len(blocks) == 3
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), 'exec'), names)  # noqa: S102


def test_table() -> None:
    rows = re.findall(
        r'^\| `(\w+)` \| ([\d,]+)[^|]*\| ([^|]*) \| ([^|]*) \|',
        PAGE.read_text('utf-8'),
        re.MULTILINE,
    )
    registered = {
        name
        for module in (
            'ssrn',
            'cnn3d',
            'densenet3d',
            'spectralformer',
            'lgcnet',
            'dgcnet',
            'dacnet',
        )
        for name in timm.list_models(module=module)
    }
    assert {row[0] for row in rows} == registered
    for name, count, patch, levels in rows:
        sized = 'img_size' in patch
        options: dict[str, Any] = {'img_size': 7} if sized else {}
        model: Any = timm.create_model(name, **options)
        assert f'{sum(p.numel() for p in model.parameters()):,}' == count
        widths = [info['num_chs'] for info in model.feature_info]
        assert ', '.join(map(str, widths)) == levels or levels == '5 x 64'
        assert bool(model.default_cfg.get('fixed_input_size')) == sized
