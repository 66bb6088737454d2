# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What notebooks show of scenes, datasets, splits, data modules and accuracies."""

import re
from typing import Any

import numpy as np
import pytest

from torchgeo_ekgnet import _html
from torchgeo_ekgnet.datamodules import SyntheticSceneDataModule
from torchgeo_ekgnet.datasets import RandomSplit, SyntheticScene
from torchgeo_ekgnet.metrics import Accuracies

OPTIONS: dict[str, Any] = {'rows': 30, 'cols': 30, 'num_bands': 10, 'num_classes': 3}


def cells(html: str) -> list[list[str]]:
    """Read the rows of a table."""
    rows = re.findall(r'<tr.*?>(.*?)</tr>', html)
    return [
        [re.sub('<.*?>', '', cell) for cell in re.findall(r'<t[dh].*?</t[dh]>', row)]
        for row in rows
    ]


@pytest.fixture(scope='module')
def datamodule() -> SyntheticSceneDataModule:
    datamodule = SyntheticSceneDataModule(patch_size=5, dataset_options=OPTIONS)
    datamodule.setup('fit')
    return datamodule


def test_table_escapes_and_aligns() -> None:
    html = _html.table(('<a>', 'n'), [('b & c', '1,000'), (None, 2)], [(1, 2, 3)], 1)
    assert cells(html) == [
        ['&lt;a&gt;', 'n'],
        ['b &amp; c', '1,000'],
        [_html.DASH, '2'],
    ]
    assert html.count('rgb(1,2,3)') == 1
    assert html.count('text-align:right') == 3
    assert html.count('class="total"') == 1


def test_table_with_a_short_row_is_refused() -> None:
    with pytest.raises(ValueError, match='1 cells, the table 2 columns'):
        _html.table(('a', 'b'), [('c',)])


def test_dataset_and_scene(datamodule: SyntheticSceneDataModule) -> None:
    dataset = SyntheticScene(patch_size=5, **OPTIONS)
    scene = dataset.scene
    assert repr(dataset).startswith(f'SyntheticScene({len(dataset):,} patches of 5 x 5')
    assert '\n' not in repr(dataset)
    table = cells(scene._repr_html_())
    assert table[0] == ['class', 'value', 'labelled']
    assert [row[2] for row in table[1:]] == [f'{n:,}' for n in scene.class_counts]
    assert 'SYNTHETIC' in dataset._repr_html_()


def test_split_is_short(datamodule: SyntheticSceneDataModule) -> None:
    split = RandomSplit(0.5, 0.1)(datamodule.scene.label_map)
    assert repr(split) == (
        f"Split('random', {split.train.size:,} train, {split.val.size:,} val, "
        f'{split.test.size:,} test, 30 x 30)'
    )
    assert cells(split._repr_html_())[1] == ['train', f'{split.train.size:,}']


def test_datamodule(datamodule: SyntheticSceneDataModule) -> None:
    fresh = SyntheticSceneDataModule(patch_size=5)
    assert 'not set up' in repr(fresh)
    assert 'not set up' in fresh._repr_html_()
    assert len(repr(datamodule)) < 200
    assert str(datamodule) == repr(datamodule)
    html = datamodule._repr_html_()
    table = cells(html)
    assert table[0] == ['class', 'value', 'labelled', 'train', 'val', 'test']
    counts = datamodule.split.counts(datamodule.scene.label_map, 3)
    assert [row[3] for row in table[1:]] == [f'{n:,}' for n in counts['train']]
    overlap = datamodule.split.overlap(5)
    assert f'{overlap.contains_training_centre:.1%}' in html


@pytest.mark.parametrize('confusion', [[[3, 1], [0, 4]], [[3, 0], [0, 0]]])
def test_accuracies(confusion: Any) -> None:
    accuracies = Accuracies.from_confusion(np.array(confusion))
    overall = f'{100 * accuracies.overall:.2f}'
    assert f'OA {overall}' in repr(accuracies)
    html = accuracies._repr_html_()
    assert f'overall accuracy: {overall}' in html
    assert [row[:2] for row in cells(html)] == [
        ['class', 'samples'],
        ['1', str(sum(confusion[0]))],
        ['2', str(sum(confusion[1]))],
    ]
