# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The commands of the page on the first hour, typed as they stand there."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio

from tests.data.public_scenes.data import save_mat

from .intake.conftest import own_cube, own_labels

PAGE = Path(__file__).parents[1] / 'docs' / 'first-hour.md'


def transcript() -> Iterator[tuple[list[str], str]]:
    """Give every command of the page with what it prints."""
    text = PAGE.read_text(encoding='utf-8')
    for block in re.findall(r'^```console\n(.*?)^```$', text, re.DOTALL | re.MULTILINE):
        for part in re.split(r'^\$ ', block, flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition('\n')
            yield shlex.split(command), expected


@pytest.mark.timeout(600)
def test_commands_print_what_the_page_says(tmp_path: Path) -> None:
    rows = slice(0, 18)
    save_mat(tmp_path / 'fields.mat', '5', reflectance=own_cube()[rows])
    save_mat(tmp_path / 'fields_gt.mat', '5', truth=own_labels()[rows])
    names = []
    for (program, *args), expected in transcript():
        assert program == 'torchgeo-ekgnet'
        result = subprocess.run(
            [sys.executable, '-m', 'torchgeo_ekgnet', *args],
            cwd=tmp_path,
            check=False,
            capture_output=True,
            text=True,
            env=os.environ | {'OMP_NUM_THREADS': '1', 'COLUMNS': '80'},
        )
        assert result.returncode == 0, result.stderr
        names.append(args[0])
        # Lightning says what it does on the other stream.
        printed = result.stdout + result.stderr
        found = printed if args[0] == 'predict' else result.stdout
        place = 0
        for piece in expected.split('...'):
            wanted = ' '.join(piece.split())
            place = ' '.join(found.split()).find(wanted, place)
            assert place >= 0, f'{args[0]} did not print {wanted!r} but\n{printed}'
            place += len(wanted)
    assert names == ['init', 'fit', 'test', 'predict', 'inspect']
    with rasterio.open(tmp_path / 'runs/fields/version_0/map.tif') as file:
        found_map = file.read(1)
    truth = own_labels()[rows]
    inside = truth > 0
    assert found_map.shape == truth.shape
    assert np.mean(found_map[inside] == truth[inside]) > 0.8
