# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Print constraints that pin every dependency to the lowest version allowed.

The file pyproject.toml is the only place where the versions stand:

    python .ci/lowest.py > lowest.txt
    pip install -e '.[tests]' -c lowest.txt
"""

import re
import sys
import tomllib
from pathlib import Path

# Tools: their versions change no result.
NOT_PINNED = ('style', 'docs')


def lowest(project: dict) -> list[str]:  # type: ignore[type-arg]
    """Give one constraint a dependency.

    Args:
        project: Table ``project`` of pyproject.toml.

    Returns:
        Lines such as ``'timm==1.0.29'``, sorted.

    Raises:
        ValueError: If a dependency has no lower bound.
    """
    extras = project['optional-dependencies']
    needed = list(project['dependencies'])
    for name, dependencies in extras.items():
        if name not in NOT_PINNED:
            needed += dependencies
    pins = {}
    for dependency in needed:
        found = re.match(r'([\w.-]+)(\[[\w,]+\])?\s*>=\s*([\w.]+)', dependency)
        if found is None:
            raise ValueError(f'{dependency}: found no lower bound, expected NAME>=X')
        pins[found[1]] = found[3]
    return [f'{name}=={version}' for name, version in sorted(pins.items())]


if __name__ == '__main__':
    with (Path(__file__).parents[1] / 'pyproject.toml').open('rb') as file:
        sys.stdout.write('\n'.join(lowest(tomllib.load(file)['project'])) + '\n')
