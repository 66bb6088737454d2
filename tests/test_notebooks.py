# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Notebooks: figures appear once, and the tutorials run."""

import os
from pathlib import Path
from typing import Any

import pytest

nbformat: Any = pytest.importorskip('nbformat')
nbclient: Any = pytest.importorskip('nbclient')
pytest.importorskip('ipykernel')

TUTORIALS = Path(__file__).parents[1] / 'docs' / 'tutorials'


def executed(notebook: Any, folder: Path) -> Any:
    """Run a notebook in a folder of its own."""
    client = nbclient.NotebookClient(
        notebook,
        timeout=280,
        kernel_name='python3',
        resources={'metadata': {'path': str(folder)}},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('OMP_NUM_THREADS', '1')
        # Else the kernel draws as the test process does: nowhere.
        patch.delenv('MPLBACKEND', raising=False)
        client.execute(env=dict(os.environ))
    return notebook


def figures(cell: Any) -> int:
    """Count the pictures that a cell shows."""
    return sum('image/png' in output.get('data', {}) for output in cell.outputs)


def text(cell: Any) -> str:
    """Join what a cell printed and returned."""
    parts = [
        output.get('text', '') + output.get('data', {}).get('text/plain', '')
        for output in cell.outputs
    ]
    return '\n'.join(parts)


def test_figures_appear_once(tmp_path: Path) -> None:
    cells = [
        'from torchgeo_ekgnet.datasets import SyntheticScene',
        'data = SyntheticScene(patch_size=3, rows=20, cols=20, num_bands=8)',
        'data.plot_scene()',
        'import matplotlib.pyplot as plt\nfigure = data.plot(data[0])\nplt.show()',
        'figure = data.plot_spectra()\n1 + 1',
        'data',
    ]
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in cells]
    )
    executed(notebook, tmp_path)
    assert [figures(cell) for cell in notebook.cells] == [0, 0, 1, 1, 1, 0]
    shown = notebook.cells[-1].outputs[-1]['data']
    assert '<table>' in shown['text/html']
    assert text(notebook.cells[-1]).startswith('SyntheticScene(')


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    'path', sorted(TUTORIALS.glob('*.ipynb')), ids=lambda p: p.stem
)
def test_tutorial_runs(path: Path, tmp_path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    kept = [figures(cell) for cell in notebook.cells if cell.cell_type == 'code']
    executed(notebook, tmp_path)
    shown = [figures(cell) for cell in notebook.cells if cell.cell_type == 'code']
    assert sum(shown) >= 1
    # What the documentation shows is what the notebook gives.
    assert shown == kept
