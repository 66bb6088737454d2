# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""``torchgeo-ekgnet export``: a trained network as one file for other programs."""

import io
import json
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ._environment import versions
from ._files import (
    check_output_file,
    file_digest,
    named_path,
    relative_path,
    replaced,
    write_json,
)
from ._runs import read_result, run_of_checkpoint
from .commands import CommandParser
from .maps import Classifier, load_classifier
from .transforms import SpectralNormalizer, SpectralPCA

__all__ = ('RawClassifier', 'describe', 'export_classifier')

#: Endings of the files by format.
SUFFIXES = {'onnx': '.onnx', 'pt2': '.pt2'}

#: Names of the input and output of the exported network.
INPUT, OUTPUT = 'patches', 'probabilities'


class RawClassifier(nn.Module):
    """A network that takes values as they are stored: it normalises them itself.

    Pixels that are NaN in any band are what lies beyond the border, or has no data.

    Args:
        classifier: The trained network.
    """

    def __init__(self, classifier: Classifier) -> None:
        """Initialize a new RawClassifier instance.

        Args:
            classifier: The trained network.
        """
        super().__init__()
        state = classifier.data
        self.network = classifier.model
        self.normalizer = SpectralNormalizer.from_state(state['normalizer'])
        pca = state['pca']
        self.pca = None if pca is None else SpectralPCA.from_state(pca)

    def forward(self, patches: Tensor) -> Tensor:
        """Classify patches.

        Args:
            patches: Values as stored, float32 (n, bands, P, P).

        Returns:
            Class probabilities, float32 (n, classes).
        """
        spectra = patches.permute(0, 2, 3, 1)
        missing = torch.isnan(spectra).any(dim=-1, keepdim=True)
        values = self.normalizer(torch.where(missing, 0.0, spectra))
        if self.pca is not None:
            values = self.pca(values)
        values = torch.where(missing, 0.0, values).permute(0, 3, 1, 2).contiguous()
        probabilities: Tensor = self.network(values).softmax(dim=1)
        return probabilities


def describe(classifier: Classifier) -> dict[str, Any]:
    """Say what a program has to know to use an exported network.

    Args:
        classifier: The trained network.

    Returns:
        JSON-able bands (counted in the file from 0), wavelengths in nm, classes with
        value in the map and colour, patch size, padding, nodata, normalisation, the
        temperature that the network divides its logits by, and where it comes from.
    """
    state = classifier.data
    scene = state['scene']
    legend = classifier.legend
    wavelengths = classifier.wavelengths
    return {
        'input': INPUT,
        'output': OUTPUT,
        'patch_size': classifier.patch_size,
        'padding_mode': state['padding_mode'],
        'nodata': scene['nodata'],
        'bands': [int(band) for band in scene['band_indices']],
        'wavelengths': None if wavelengths is None else wavelengths.tolist(),
        'classes': [
            {
                'name': name,
                'value': int(value),
                'colour': [int(part) for part in colour],
            }
            for name, value, colour in zip(
                legend.names, legend.values, legend.palette, strict=True
            )
        ],
        'normalization': state['normalization'],
        'temperature': classifier.temperature,
        'scene': scene['name'],
        'synthetic': scene['synthetic'],
        'checkpoint': Path(classifier.source).name,
        'checkpoint_digest': file_digest(classifier.source),
        'versions': versions(),
    }


def export_classifier(
    checkpoint: str | os.PathLike[str],
    path: str | os.PathLike[str],
    kind: str | None = None,
) -> tuple[Path, Path]:
    """Write a trained network, its normalisation included, and what describes it.

    The network takes patches of raw values, float32 (n, bands, P, P), NaN beyond the
    border, and gives class probabilities (n, classes), for any n.

    Args:
        checkpoint: Checkpoint of a run.
        path: File to write.
        kind: ``'onnx'`` (needs the extra ``export``) or ``'pt2'``, which is the ending
            of ``path``, too; None: as that says.

    Returns:
        The file, and the JSON file beside it.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        ImportError: If the packages that write ONNX are missing.
        ValueError: If the format is unknown or not that of the ending, or the file is
            no checkpoint of this package.
    """
    path = Path(path)
    ending = path.suffix.removeprefix('.')
    kind = kind or ending
    if kind not in SUFFIXES:
        raise ValueError(f'format: found {kind!r}, expected one of {list(SUFFIXES)}')
    description = path.with_suffix('.json')
    _check_replaced(path, description, checkpoint)
    if ending != kind:
        raise ValueError(
            f'{path}: found the ending {path.suffix!r} for a file of format {kind}, '
            f'expected {SUFFIXES[kind]}'
        )
    if kind == 'onnx':
        missing = [name for name in ('onnx', 'onnxscript') if find_spec(name) is None]
        if missing:
            raise ImportError(
                f'writing ONNX needs {" and ".join(missing)}: pip install '
                "'torchgeo_ekgnet[export]', or use --format pt2"
            )
    classifier = load_classifier(checkpoint)
    model = RawClassifier(classifier)
    size = classifier.patch_size
    example = torch.zeros(2, classifier.num_bands, size, size)
    batch = torch.export.Dim('batch')
    facts = describe(classifier)
    # Before the work that takes long.
    check_output_file(path)
    with replaced(path) as part, warnings.catch_warnings(), torch.no_grad():
        # What torch says of its own insides is nothing that a reader can act on.
        warnings.simplefilter('ignore')
        program = torch.export.export(
            model, (example,), dynamic_shapes=({0: batch},), strict=False
        )
        if kind == 'pt2':
            extra = {'torchgeo_ekgnet.json': json.dumps(facts)}
            # In memory first: torch turns an error of the disk into one of its own.
            content = io.BytesIO()
            torch.export.save(program, content, extra_files=extra)
            part.write_bytes(content.getvalue())
        else:
            _write_onnx(program, part, facts)
        # Killed before the new one is there, no network has that of another.
        description.unlink(missing_ok=True)
    return path, write_json(description, facts)


def _check_replaced(
    path: Path, description: Path, checkpoint: str | os.PathLike[str]
) -> None:
    """Refuse names of files that are no earlier export, such as results of the run."""
    if path.is_file() and os.path.exists(checkpoint) and path.samefile(checkpoint):
        raise ValueError(f'{path}: found the checkpoint itself, expected another file')
    if not description.is_file():
        return
    found = read_result(description)
    if found.get('input') != INPUT or found.get('output') != OUTPUT:
        raise ValueError(
            f'{path}: its description would replace {description}, found something '
            'else in it, expected an earlier description or nothing; choose another '
            'name'
        )
    others = [path.with_suffix(ending) for ending in SUFFIXES.values()]
    beside = [other for other in others if other != path and other.is_file()]
    told = found.get('checkpoint_digest')
    if beside and os.path.exists(checkpoint) and told != file_digest(checkpoint):
        raise ValueError(
            f'{path}: its description would replace {description}, found that of '
            f'{beside[0].name} from another checkpoint; choose another name'
        )


def _write_onnx(program: Any, path: Path, facts: dict[str, Any]) -> None:
    """Write an exported program as one ONNX file."""
    chatty = logging.getLogger('torch.onnx')
    level = chatty.level
    chatty.setLevel(logging.ERROR)
    try:
        onnx_program: Any = torch.onnx.export(
            program.run_decompositions({}),
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamo=True,
            verbose=False,
        )
    finally:
        chatty.setLevel(level)
    onnx_program.model.metadata_props['torchgeo_ekgnet'] = json.dumps(facts)
    onnx_program.save(str(path), external_data=False)


def main(args: Sequence[str] | None = None) -> None:
    """Run the command.

    Args:
        args: Command-line arguments; None for those of the process.
    """
    parser = CommandParser(
        prog='torchgeo-ekgnet export',
        description='Write a trained network with its normalisation as one file, and '
        'a JSON file of its bands, wavelengths and classes beside it.',
    )
    parser.add_argument(
        '--ckpt_path',
        required=True,
        metavar='RUN/checkpoints/best.ckpt',
        help='checkpoint of the trained network',
    )
    parser.add_argument(
        '--format',
        choices=tuple(SUFFIXES),
        help='default: as the ending of --output says, else onnx',
    )
    parser.add_argument(
        '--output',
        type=named_path,
        metavar='FILE',
        help='file to write, .onnx or .pt2 (default: network.onnx in the run)',
    )
    options = parser.parse_args(args)
    output = options.output
    ending = (output or Path()).suffix.removeprefix('.')
    kind = options.format or (ending if ending in SUFFIXES else 'onnx')
    path = output or (
        relative_path(run_of_checkpoint(options.ckpt_path))
        + f'/network{SUFFIXES[kind]}'
    )
    network, description = export_classifier(options.ckpt_path, path, kind)
    size = network.stat().st_size / 1e6
    sys.stdout.write(f'network      {network} ({size:.1f} MB)\n')
    sys.stdout.write(f'description  {description}\n')
