# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Letters of class names that Matplotlib's own font lacks."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, fontManager
from matplotlib.text import Text

from torchgeo_ekgnet import _fonts
from torchgeo_ekgnet.datasets.plotting import as_written

WHEAT = '\u5c0f\u9ea6'


@pytest.fixture(autouse=True)
def shipped_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No fonts but those that come with Matplotlib."""
    shipped = [font for font in fontManager.ttflist if 'mpl-data' in font.fname]
    monkeypatch.setattr(fontManager, 'ttflist', shipped)
    _fonts._others.cache_clear()
    yield
    _fonts._others.cache_clear()


def drawn(name: str, path: Path) -> Text:
    """Draw a figure with a name in its legend, and give the name's text."""
    figure = Figure()
    figure.subplots().plot([0, 1], label=name)
    figure.legend()
    with warnings.catch_warnings():
        warnings.simplefilter('error')  # Matplotlib warns of letters it cannot draw
        as_written(figure).savefig(path, dpi=40)
    return figure.legends[0].get_texts()[0]


def test_letters_of_another_font(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own, other = (
        _fonts._letters(findfont(FontProperties(family=[name])))
        for name in ('DejaVu Sans', 'STIXGeneral')
    )
    name = 'wheat ' + min(other - own)
    text = drawn(name, tmp_path / 'a.png')
    assert text.get_text() == name and 'STIXGeneral' in text.get_fontfamily()
    assert not caplog.records


def test_letters_that_no_font_has(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = [drawn(f'{WHEAT} R\u00f6te', tmp_path / 'a.png') for _ in range(2)]
    assert {text.get_text() for text in texts} == {'\u25a1\u25a1 R\u00f6te'}
    (record,) = caplog.records
    assert f'no installed font has {WHEAT}' in record.getMessage()
