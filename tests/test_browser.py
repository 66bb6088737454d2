# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Pages in a real browser: nothing loaded, no script, readable on every screen."""

import re
import shutil
import subprocess
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from numpy.typing import NDArray

from torchgeo_ekgnet.datasets import synthetic_scene
from torchgeo_ekgnet.intake import Overview
from torchgeo_ekgnet.intake.page import write_overview
from torchgeo_ekgnet.maps.page import Page

BROWSER = next(
    (
        path
        for name in ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
        if (path := shutil.which(name))
    ),
    None,
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason='no Chromium on this machine')

HEIGHT = 1200


def browse(page: Path, *options: str) -> str:
    """Open a page without a screen and give what the browser writes."""
    result = subprocess.run(
        [
            str(BROWSER),
            *('--headless', '--no-sandbox', '--disable-gpu', '--hide-scrollbars'),
            f'--user-data-dir={page.parent / "profile"}',
            *options,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=200,
        check=True,
    )
    return result.stdout


def picture(page: Path, width: int, dark: bool = False) -> NDArray[np.float32]:
    """Photograph a page of a width in pixels."""
    target = page.with_name(f'{page.stem}-{width}-{dark}.png')
    options = ['--blink-settings=preferredColorScheme=0'] if dark else []
    browse(page, f'--window-size={width},{HEIGHT}', f'--screenshot={target}', *options)
    shown: NDArray[np.float32] = matplotlib.image.imread(target)
    return shown[..., :3]


@pytest.fixture(scope='module', params=['inspect', 'report'])
def page(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The page of ``inspect``, and one with everything that a report has."""
    path = tmp_path_factory.mktemp('pages') / f'{request.param}.html'
    scene = synthetic_scene(40, 48, 24, 4)
    if request.param == 'inspect':
        return write_overview(Overview(scene, 5), path)
    report = Page('Classification of a scene', 'ekgnet_tiny · 40 x 48 pixels')
    report.notice('This scene is synthetic.')
    report.cards({'overall accuracy, %': '95.56', 'kappa x 100': '94.79'})
    report.section('Accuracies')
    report.matrix([[9, 1, 0], [2, 30, 4], [0, 1, 8]], ['maize', 'rye', 'grass'])
    report.settings({'a setting with a long name': 'x' * 150})
    report.code('trainer:\n  max_epochs: 80  # ' + 'long ' * 40)
    wide = path.with_name('wide.png')
    matplotlib.image.imsave(wide, np.ones((20, 2000, 3)) * 0.5)
    report.figure(wide, 'A figure.')
    return report.write(path)


def test_nothing_is_loaded_and_nothing_runs(page: Path) -> None:
    text = page.read_text(encoding='utf-8')
    assert not re.search(r'<(script|link|iframe|object|embed)\b', text)
    assert not re.search(r'\son\w+=|javascript:|@import|url\(', text)
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert sources
    assert all(item.startswith(('data:image/png;base64,', '#')) for item in sources)
    # What the browser makes of it is what was written: nothing was added.
    assert browse(page, '--dump-dom').count('<img') == text.count('<img')


@pytest.mark.parametrize('width', [1200, 400])
def test_page_fits_its_window(page: Path, width: int, tmp_path: Path) -> None:
    probe = page.with_name(f'probe-{page.stem}.html')
    # The probe's own script measures; the page has none.
    measured = (
        '<script>document.title = document.documentElement.scrollWidth'
        ' + "/" + innerWidth + "/" + Math.min(...[...document.images].map('
        'i => i.naturalWidth))</script>'
    )
    text = page.read_text(encoding='utf-8')
    probe.write_text(text.replace('</body>', f'{measured}</body>'), encoding='utf-8')
    frame = page.with_name(f'frame-{page.stem}.html')
    # A window may not become as narrow as a frame.
    frame.write_text(
        f'<iframe src="{probe.name}" style="width:{width}px;height:900px;border:0" '
        'onload="document.title=this.contentDocument.title"></iframe>',
        encoding='utf-8',
    )
    dom = browse(
        frame,
        '--dump-dom',
        '--allow-file-access-from-files',
        '--virtual-time-budget=5000',
        '--window-size=1400,1000',
    )
    found = re.search(r'<title>(\d+)/(\d+)/(\d+)</title>', dom)
    assert found, dom[:500]
    content, window, smallest = map(int, found.groups())
    assert window == width
    assert content <= width
    assert smallest > 0


@pytest.mark.parametrize('width', [1200, 400])
def test_light_and_dark_are_readable(page: Path, width: int) -> None:
    light, dark = picture(page, width), picture(page, width, dark=True)
    # The upper left corner is paper; ink is the colour farthest from it.
    for shown, paper in ((light, 1.0), (dark, 0.1)):
        corner = shown[:4, :4].mean()
        assert corner == pytest.approx(paper, abs=0.08)
        # Headings: the rows above the first table or figure.
        text = shown[:120].mean(axis=2)
        assert np.abs(text - corner).max() > 0.6
