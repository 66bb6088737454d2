# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What a configuration may be; what one may name that was found is in test_stages."""

from pathlib import Path

import pytest

from torchgeo_ekgnet._configurations import UsageError, check_yaml


def test_aliases_of_aliases_are_looked_at_once(tmp_path: Path) -> None:
    """They have more paths than anybody could walk, and the parser walks them."""
    lines = ['a0: &a0 {b: 1}']
    lines += [f'a{i}: &a{i} [*a{i - 1}, *a{i - 1}]' for i in range(1, 60)]
    path = tmp_path / 'aliases.yaml'
    path.write_text('\n'.join(lines[:10]))
    check_yaml(str(path))
    path.write_text('\n'.join(lines))
    with pytest.raises(
        UsageError, match=r'aliases\.yaml: found .* expected at most 200'
    ):
        check_yaml(str(path))
    path.write_text('a: ' + '[' * 3000 + ']' * 3000)
    with pytest.raises(UsageError, match=r'aliases\.yaml: found values within values'):
        check_yaml(str(path))
