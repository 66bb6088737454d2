# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The report of a run: what lies in its folder and is of one scene, on one page."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from rasterio.crs import CRS
from rasterio.errors import CRSError

from .._files import StrPath
from .._runs import claim_outputs
from ..metrics import SCORES, Score
from .areas import estimate_areas
from .figure import confidence_figure, learning_curves, reliability_figure
from .page import Page
from .results import Results
from .smoothing import Smoothing

__all__ = ('write_run_report',)

#: What ``map.json`` holds beside the facts that are shown as settings.
_SHOWN_ELSEWHERE = [
    'classes',
    'palette',
    'scene',
    'cube',
    'source',
    'versions',
    'pixel_area',
    'smoothed_pixels',
]


def write_run_report(
    run: StrPath,
    path: StrPath | None = None,
    data: Mapping[str, Any] | None = None,
    folder: StrPath | None = None,
    map_folder: StrPath | None = None,
    lead: Literal['map', 'test'] = 'map',
) -> Path:
    """Write the report of a run: what there is in its folder, on one page.

    Results are joined only if they are of the same scene and the same checkpoint. Others
    are left out, and the page says so.

    Args:
        run: Folder of the run. ``test.json``, ``metrics.csv``, ``config.yaml``,
            ``expert_use.json``, ``map.json``, ``map.png`` and ``confidence.tif`` are
            shown if they exist.
        path: File to write, ``report.html`` in *folder* by default.
        data: What the datamodule says of its data; taken from ``test.json`` if None.
        folder: Folder of the results, the run's by default; ``predict/SCENE`` in it for
            another scene than that of the training.
        map_folder: Folder of the map's files, *folder* by default.
        lead: Whose scene and checkpoint the page is of, if ``test.json`` and
            ``map.json`` are of two.

    Returns:
        The file.

    Raises:
        FileNotFoundError: If there is no such folder.
        FileError: If a file of results does not hold what was written.
    """
    run = Path(run)
    if not run.is_dir():
        raise FileNotFoundError(f'there is no run folder {run}')
    folder = run if folder is None else Path(folder)
    if path is None:
        claim_outputs(folder, ['report.html'])
    maps = folder if map_folder is None else Path(map_folder)
    results = Results(run, folder, maps, data or {}, lead)
    name = results.scene.get('name') or results.subject.scene or run.name
    page = Page(f'Classification of {name}', _subtitle(results))
    for section, file in _SECTIONS:
        with results.reading(file):
            section(page, results)
    return page.write(folder / 'report.html' if path is None else path)


def _percent(value: Any, digits: int = 2) -> str | None:
    """Write a share as a percentage."""
    return None if value is None else f'{100 * float(value):.{digits}f}'


def _subtitle(results: Results) -> str:
    """Sum up network and scene in a line."""
    test, scene = results.test, results.scene
    parts = []
    if test.get('model'):
        parts.append(f'{test["model"]}')
    if test.get('parameters'):
        parts.append(f'{test["parameters"]:,} parameters')
    if scene.get('shape'):
        rows, cols, bands = scene['shape']
        parts.append(f'{rows} x {cols} pixels, {bands} bands')
    source = scene.get('source') or test.get('source')
    if source:
        parts.append(str(source))
    return ' · '.join(parts)


def _titled(score: Score) -> str:
    """Name a score with its unit."""
    return score.title if score.title.endswith(' x 100') else f'{score.title}, %'


def _notices(page: Page, results: Results) -> None:
    """Say first what a reader must know of the scene and of what is missing."""
    if results.scene.get('synthetic') or results.test.get('synthetic'):
        page.notice(
            'This scene is synthetic: a program made it. Scores say nothing about '
            'real images.'
        )
    for sentence in results.left_out:
        page.notice(sentence)


def _headline(page: Page, results: Results) -> None:
    """Show the scores of the test, and what they are of."""
    test = results.test
    if not test:
        return
    overlap = test.get('overlap') or {}
    page.cards({_titled(score): score.shown(test) for score in SCORES})
    text = f'On the test pixels of the {test.get("protocol")} split'
    if test.get('seed') is not None:
        text += f', seed {test["seed"]}'
    if test.get('epochs') is not None:
        text += f', after {test["epochs"]} epoch{"s" if test["epochs"] != 1 else ""}'
    text += '.'
    centre = _percent(overlap.get('contains_training_centre'), 1)
    pixel = _percent(overlap.get('shares_training_pixel'), 1)
    if centre is not None and pixel is not None:
        text += (
            f' Of the test patches, {centre} % contain the centre of a training patch, '
            f'and {pixel} % share a pixel with a training patch: the larger these '
            'shares, the less the accuracies say about places the network has not seen.'
        )
    page.paragraph(text)


def _map(page: Page, results: Results) -> None:
    """Show the pictures of the map, its pixels by class and its settings."""
    folder, facts = results.maps, results.map
    if not (folder / 'map.png').is_file() or (not facts and results.map_left_out):
        return
    page.section('Map')
    page.figure(folder / 'map.png', 'Map and false colour, labels if there are any.')
    if (folder / 'smoothed.png').is_file() and facts.get('smoothing'):
        window = facts['smoothing']['window']
        page.figure(
            folder / 'smoothed.png',
            f'The map of probabilities that were smoothed over {window} x {window} '
            'pixels.',
        )
    confidence = folder / 'confidence.tif'
    if confidence.is_file():
        page.figure(
            confidence_figure(confidence),
            'Probability of the class that was chosen '
            + ('(calibrated).' if facts.get('temperature') else '(not calibrated).'),
        )
    if facts.get('classes'):
        rows = [(row['name'], row['value'], row['pixels']) for row in facts['classes']]
        total = max(sum(row[2] for row in rows), 1)
        cells: list[Sequence[object]] = [
            (name, value, f'{count:,}', _percent(count / total))
            for name, value, count in rows
        ]
        head = ['class', 'value in map.tif', 'pixels', 'share, %']
        smoothed = facts.get('smoothed_pixels')
        if smoothed:
            head.append('pixels, smoothed')
            cells = [
                (*row, f'{count:,}') for row, count in zip(cells, smoothed, strict=True)
            ]
        page.table(
            head, cells, 'Pixels of the map by class.', swatches=facts.get('palette')
        )
    rest = {
        name.replace('_', ' '): value
        for name, value in facts.items()
        if name not in _SHOWN_ELSEWHERE and value is not None
    }
    if rest:
        page.settings(rest)


def _accuracies(page: Page, results: Results) -> None:
    """Show scores by class, their calibration and the confusion matrix."""
    test = results.test
    if not test:
        return
    page.section('Accuracies')
    names = test.get('class_names') or []
    counts, recalls = test.get('counts') or [], test.get('per_class') or []
    precisions = test.get('precision') or [None] * len(recalls)
    classes = zip(names, counts, recalls, precisions, strict=False)
    rows: list[Sequence[object]] = [
        (name, count, _percent(recall), _percent(precision))
        for name, count, recall, precision in classes
    ]
    for score in SCORES:
        value, of_precision = score.shown(test), score.key == 'precision_average'
        cells = (None, value) if of_precision else (value, None)
        rows.append((score.title, None, *cells))
    page.table(
        ('class', 'test pixels', 'recall, %', 'precision, %'),
        rows,
        'Average accuracy is the mean of the recalls, precision average that of the '
        f'precisions; {sum(counts):,} test pixels.',
        swatches=test.get('palette') or results.palette,
        totals=len(SCORES),
    )
    if test.get('calibration'):
        _calibration(page, test['calibration'])
    if test.get('smoothed'):
        _smoothed(page, test)
    if test.get('confusion_matrix'):
        page.matrix(
            test['confusion_matrix'],
            names,
            'Confusion matrix: pixels by true class (rows) and predicted class '
            '(columns). Colour is the share of the row.',
        )


def _calibration(page: Page, calibration: Mapping[str, Any]) -> None:
    """Show how far the probabilities may be believed."""
    temperature = calibration.get('temperature')
    how = (
        'not calibrated'
        if temperature is None
        else f'calibrated by a temperature of {temperature:.3g}'
    )
    error = _percent(calibration['expected_calibration_error'])
    page.figure(
        reliability_figure(calibration['bins']),
        f'Reliability of the probabilities ({how}): of the test pixels of a bin, the '
        'share that is right, over what was said of them; expected calibration error '
        f'{error} %. Below the line the network is too sure of itself.',
    )


def _smoothed(page: Page, test: Mapping[str, Any]) -> None:
    """Show the scores of smoothed probabilities beside those of single pixels."""
    smoothed = test['smoothed']
    name = f'smoothed over {Smoothing.name(smoothed, " pixels")}'
    page.table(
        ('', *(_titled(score) for score in SCORES)),
        [
            ('every pixel alone', *(score.shown(test) for score in SCORES)),
            (name, *(score.shown(smoothed) for score in SCORES)),
        ],
        'Scores with and without averaging of the probabilities.',
    )
    share = float(smoothed.get('reaches_training') or 0)
    if share:
        page.notice(
            f'The window of {_percent(share, 1)} % of the test pixels holds a training '
            'pixel: there, the smoothed scores count what the network was taught.'
        )


def _areas(page: Page, results: Results) -> None:
    """Show how much ground each class covers, by the map and corrected for its errors."""
    test, mapping = results.test, results.map
    if not test or not mapping.get('pixel_area'):
        return
    rows = mapping.get('classes') or []
    names = [row['name'] for row in rows]
    confusion = test.get('confusion_matrix')
    if not confusion or names != list(test.get('class_names') or []):
        return
    hectares = float(mapping['pixel_area']) / 1e4
    areas = estimate_areas(confusion, [row['pixels'] for row in rows], hectares)
    page.section('Areas')
    if areas.unknown:
        missing = ', '.join(names[number] for number in areas.unknown)
        page.paragraph(
            'Areas cannot be estimated: fewer than two test pixels were classified as '
            f'{missing}.'
        )
        return
    page.table(
        ('class', 'mapped, ha', 'estimated, ha', '95 % interval, ha'),
        areas.rows(names),
        'Area of each class: pixels of the map, and corrected for the errors of the '
        'test (Olofsson et al. 2014).',
        swatches=mapping.get('palette'),
    )
    if areas.untested:
        untested = ', '.join(names[number] for number in areas.untested)
        page.paragraph(
            f'No test pixel is of {untested}: how much ground that covers is not known, '
            'and where it lies the map counts it to other classes.'
        )
    page.paragraph(
        'The intervals hold if the test pixels are a random sample of the map. Labelled '
        'fields are none: there, they are a lower bound of the uncertainty.'
    )


def _split(page: Page, results: Results) -> None:
    """Show how pixels were split, and how many of each class."""
    split = results.data.get('split') or results.test.get('split') or {}
    if not split.get('counts') and not split.get('identity'):
        return
    names = results.scene.get('class_names') or results.test.get('class_names') or []
    page.section('Split')
    overlap = split.get('overlap') or {}
    facts = {
        'protocol': split.get('protocol'),
        **(split.get('settings') or {}),
        'identity': split.get('identity'),
    }
    if overlap:
        facts['test patches that contain a training centre, %'] = _percent(
            overlap.get('contains_training_centre')
        )
        facts['test patches that share a pixel with a training patch, %'] = _percent(
            overlap.get('shares_training_pixel')
        )
    page.settings(facts)
    counts = split.get('counts') or {}
    parts = [part for part in ('train', 'val', 'test') if part in counts]
    if parts and all(len(counts[part]) == len(names) for part in parts):
        rows: list[Sequence[object]] = [
            (name, *(counts[part][index] for part in parts))
            for index, name in enumerate(names)
        ]
        rows.append(('all', *(sum(counts[part]) for part in parts)))
        heads = {'train': 'training', 'val': 'validation', 'test': 'test'}
        page.table(
            ('class', *(heads[part] for part in parts)),
            rows,
            'Pixels by class.',
            swatches=results.palette,
            totals=1,
        )


def _learning_curves(page: Page, results: Results) -> None:
    """Show losses and scores by epoch."""
    log = results.files['log']
    curves = None
    if results.of_training_scene and log.is_file():
        curves = learning_curves(log)
    if curves is not None:
        page.section('Learning curves')
        page.figure(curves, 'Loss and accuracy by epoch.')


def _experts(page: Page, results: Results) -> None:
    """Show how much each class uses each expert."""
    experts = results.experts
    if not experts:
        return
    page.section('Experts')
    page.paragraph(
        'How the network mixes its kernels. An entropy of 1 means that all experts '
        'count the same; information about the class is how much the mixture of a '
        'pixel tells of its class, as a share of the most that is possible.'
    )
    picture = results.files['experts'].with_name('expert_use.png')
    if picture.is_file():
        page.figure(picture, 'Mean attention to each expert by layer and class.')
    rows: list[Sequence[object]] = []
    by_class: list[Sequence[object]] = []
    for name, layer in (experts.get('layers') or {}).items():
        most = layer.get('log_experts') or 1.0
        rows.append(
            (
                name,
                layer.get('experts'),
                f'{layer.get("entropy", 0.0) / most:.3f}',
                f'{layer.get("class_information", 0.0) / most:.4f}',
                ', '.join(f'{share:.2f}' for share in layer.get('mean') or ()),
            )
        )
        shares = layer.get('per_class') or ()
        by_class.append((name, *(_top_expert(share) for share in shares)))
    if not rows:
        return
    page.table(('layer', 'experts', 'entropy', 'information', 'mean attention'), rows)
    names = experts.get('class_names') or [
        f'class {number}' for number in range(1, len(by_class[0]))
    ]
    if all(len(row) == 1 + len(names) for row in by_class):
        page.table(
            ('layer', *names),
            by_class,
            'The expert that counts most for each class, and its mean attention.',
        )


def _top_expert(shares: Sequence[float] | None) -> str | None:
    """Name the expert of the largest attention; None for a class without samples."""
    if not shares:
        return None
    top = max(range(len(shares)), key=shares.__getitem__)
    return f'{top + 1} ({shares[top]:.2f})'


def _settings(page: Page, results: Results) -> None:
    """Show the settings of network and data."""
    test, scene, described = results.test, results.scene, results.data
    page.section('Settings')
    of_run = 'model model_options parameters checkpoint checkpoint_digest seed epochs'
    facts = {key: test[key] for key in of_run.split() if test.get(key) is not None}
    for key in ('patch_size', 'padding_mode', 'normalization', 'pca', 'num_bands'):
        value = described.get(key, test.get(key))
        if value is not None:
            facts[key] = value
    for key in ('source', 'dtype', 'nodata', 'crs'):
        if scene.get(key):
            facts[f'scene: {key}'] = scene[key]
    if scene.get('crs'):
        with suppress(CRSError):
            facts['scene: crs'] = CRS.from_wkt(scene['crs']).to_string()
    versions = test.get('versions') or {}
    if versions:
        facts['versions'] = ', '.join(f'{k} {v}' for k, v in versions.items())
    if facts:
        page.settings(facts)
    config = results.run / 'config.yaml'
    if config.is_file():
        page.paragraph('Configuration of the training run (config.yaml):')
        page.code(config.read_text(encoding='utf-8'))


#: What the page shows, from its top to its end, and the file that a section is read from.
#: Each shows nothing where there is nothing.
_SECTIONS: tuple[tuple[Callable[[Page, Results], None], str | None], ...] = (
    (_notices, None),
    (_headline, 'test'),
    (_map, None),
    (_accuracies, 'test'),
    (_areas, None),
    (_split, None),
    (_learning_curves, 'log'),
    (_experts, 'experts'),
    (_settings, None),
)
