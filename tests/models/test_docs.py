# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The code of the page "EKGNet in timm" runs as it stands."""

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import timm

PAGE = Path(__file__).parents[2] / 'docs' / 'models.md'


def test_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r'```python\n(.*?)```', PAGE.read_text('utf-8'), re.DOTALL)
    assert len(blocks) >= 8
    # A module, because timm asks for that of a network which is registered.
    page = ModuleType('page')
    monkeypatch.setitem(sys.modules, page.__name__, page)
    for block in blocks:
        exec(compile(block, str(PAGE), 'exec'), vars(page))  # noqa: S102


def test_parameter_counts_of_the_page() -> None:
    rows = re.findall(
        r'\| `(ekgnet_\w+)` \|.*?\|.*?\| ([\d,]+) \|', PAGE.read_text('utf-8')
    )
    assert {name for name, _ in rows} == set(timm.list_models(module='ekgnet'))
    for name, count in rows:
        model = timm.create_model(name, in_chans=200, num_classes=16)
        parameters = sum(p.numel() for p in model.parameters())
        assert f'{parameters:,}' == count
