# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The code of the documentation page runs."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / 'docs' / 'layer.md'
BLOCKS = re.findall(r'```python\n(.*?)```', PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize('code', BLOCKS, ids=range(len(BLOCKS)))
def test_code_of_the_page(code: str) -> None:
    exec(compile(code, PAGE.name, 'exec'), {'__name__': 'page'})  # noqa: S102
