# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The commands of the page on the first hour, typed as they stand there."""

import logging
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio

from tests.data.public_scenes.data import save_mat
from torchgeo_ekgnet.main import main

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
def test_commands_print_what_the_page_says(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows = slice(0, 18)
    save_mat(tmp_path / 'fields.mat', '5', reflectance=own_cube()[rows])
    save_mat(tmp_path / 'fields_gt.mat', '5', truth=own_labels()[rows])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('COLUMNS', '80')
    caplog.set_level(logging.INFO)
    names = []
    for (program, *args), expected in transcript():
        assert program == 'torchgeo-ekgnet'
        caplog.clear()
        main(args)
        printed = capsys.readouterr()
        names.append(args[0])
        # Lightning says what it does on the other stream.
        found = printed.out + (caplog.text if args[0] == 'predict' else '')
        place = 0
        for piece in expected.split('...'):
            wanted = ' '.join(piece.split())
            place = ' '.join(found.split()).find(wanted, place)
            assert place >= 0, f'{args[0]} did not print {wanted!r} but\n{found}'
            place += len(wanted)
    assert names == ['init', 'fit', 'test', 'predict', 'inspect']
    with rasterio.open(tmp_path / 'runs/fields/version_0/map.tif') as file:
        found_map = file.read(1)
    truth = own_labels()[rows]
    inside = truth > 0
    assert found_map.shape == truth.shape
    assert np.mean(found_map[inside] == truth[inside]) > 0.8
