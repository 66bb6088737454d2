# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Find out what the files of a scene are: cube, labels, variables, axes, attribute."""

import fnmatch
import glob
import logging
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Any

import pandas as pd
from rasterio.errors import NotGeoreferencedWarning

from .._files import relative_path
from .._wording import listed
from ..datasets import HyperspectralScene, open_scene
from ..datasets.sources.vector import LAYERED, layers_of, read_features
from .candidates import Candidate, called, list_candidates

__all__ = ('SceneFiles', 'find_scene')

logger = logging.getLogger(__name__)

#: Words in the name of a column that holds classes, the likeliest first.
_OF_CLASSES = (
    *('class', 'label', 'landcover', 'land_cover', 'category', 'type', 'species'),
    *('crop', 'cover'),
)
#: The same, or names and numbers of single features.
_OF_EITHER = ('level', 'name', 'code', 'id')

#: More values than this are no classes.
_MANY = 256

#: Files that an error lists, of many; their names hold commas.
_SHOWN = 5

#: Axes orders from the likeliest to the least likely.
_AXES = ('yxb', 'byx', 'ybx', 'xyb', 'bxy', 'xby')


@dataclass
class SceneFiles:
    """What the files of a scene were found to be.

    Attributes:
        root: Folder that the paths start from.
        cube: File, pattern or files of the cube, relative to ``root``.
        labels: File of the labels, relative to ``root``, None without labels.
        options: Further arguments of ``open_scene``, those that are not its defaults.
        notes: A sentence on each option that was chosen, by its name.
        scene: The opened scene.
        warnings: What was said while it was opened.
    """

    root: Path
    cube: str | list[str]
    labels: str | None
    options: dict[str, Any]
    notes: dict[str, str]
    scene: HyperspectralScene
    warnings: list[str] = field(default_factory=list)


def find_scene(
    files: Sequence[str | os.PathLike[str]],
    given: Mapping[str, Any] | None = None,
    need_labels: bool = False,
) -> SceneFiles:
    """Find cube and labels among files, and open the scene.

    Args:
        files: Files, patterns such as ``'tiles/*.tif'``, or one folder.
        given: Arguments of ``open_scene`` that are known already; they are not guessed.
            'cube' and 'labels' are paths as in ``files``.
        need_labels: Whether a scene without labels is an error.

    Returns:
        What was found.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If no cube is found, or several, or the files do not fit together.
    """
    known = {key: value for key, value in (given or {}).items() if value is not None}
    named = [str(known[key]) for key in ('cube', 'labels') if key in known]
    items, other = list_candidates(
        [*map(str, files), *(n for n in named if n not in files)]
    )
    cube = _choose_cube(items, known, other)
    bands = set(glob.glob(cube.paths[0])) if cube.several else set()
    rest = [
        item
        for item in items
        if item != cube
        and not (item.paths == cube.paths and _named_by(cube.variable, item))
        and item.paths[0] not in bands
    ]
    fitting = _fitting(rest, cube, known)
    asked = need_labels or known.keys() & {'labels', 'labels_variable'}
    if len(fitting) < 2 or asked or any(item.paths != cube.paths for item in fitting):
        labels = _choose_labels(rest, fitting, cube, known)
        unfit = _unfit(items, cube) if labels is None else ''
    else:
        # Products hold maps of much beside the cube.
        labels, unfit = None, f': {_several(fitting)}'
    if labels is None and need_labels:
        raise ValueError(
            f'found the cube {cube} and no labels beside it{unfit}; name a label file '
            '(--labels, for a picture in colours): a raster, polygons or points, or an '
            'array of the same rows and columns'
        )
    options = {k: v for k, v in known.items() if k not in ('cube', 'labels')}
    notes: dict[str, str] = {}
    _describe_cube(cube, labels, options, notes)
    if labels is not None:
        _describe_labels(labels, options, notes)
    _find_wavelengths(items, options, notes)
    found = _open(cube, labels, options, notes)
    if unfit:
        found.warnings.append(f'found no labels{unfit}')
    return found


def _unfit(items: Sequence[Candidate], cube: Candidate) -> str:
    """Name what might be labels, but for its size, for messages."""
    others = [
        item
        for item in items
        if item.kind in ('array', 'raster') and item.paths[0] not in cube.paths
    ]
    if not others:
        return ''
    there = listed(others, _SHOWN, '; ')
    return f' ({there} does not have its rows and columns, or is a picture)'


def _is_cube(item: Candidate) -> bool:
    """Tell whether a candidate has bands."""
    return len(item.shape) == 3 and (item.kind != 'raster' or item.shape[2] > 1)


def _choose_cube(
    items: Sequence[Candidate], known: Mapping[str, Any], other: Sequence[str]
) -> Candidate:
    """Find the cube, or say what there is, and which files are nothing."""
    cubes = [item for item in items if _is_cube(item)]
    if 'cube' in known:
        name = str(known['cube'])
        cubes = [
            item
            for item in cubes
            if item.paths[0] == called(name)
            or Path(name) in Path(item.paths[0]).parents
        ]
    elif 'labels' in known:
        others = [item for item in cubes if item.paths[0] != str(known['labels'])]
        cubes = others or cubes
    if 'cube_variable' in known:
        name = str(known['cube_variable'])
        cubes = [item for item in cubes if item.variable == name] or _series(
            items, name
        )
    rasters = [item for item in cubes if item.kind == 'raster' and not item.several]
    if len(cubes) == len(rasters) > 1 and len({item.shape[2] for item in rasters}) == 1:
        # Tiles that the shell listed.
        return Candidate(
            tuple(item.paths[0] for item in rasters), 'raster', rasters[0].shape
        )
    if not cubes:
        single = [item for item in items if item.several and len(item.shape) == 3]
        if len(single) == 1:
            return single[0]
    if len(cubes) > 1:
        most = max(item.shape[2] for item in cubes)
        large = [item for item in cubes if item.shape[2] == most]
        # A picture of three bands beside a cube is a picture.
        if (
            len(large) == 1
            and most > 4
            and all(item.shape[2] <= 4 for item in cubes if item not in large)
        ):
            return large[0]
    if len(cubes) != 1:
        there = listed(cubes or items, _SHOWN, '; ') or 'nothing'
        if other and not cubes:
            there += f'; {listed(other, _SHOWN)}, which cannot be read'
        raise ValueError(
            f'found {len(cubes) or "no"} cube{"s" * (len(cubes) != 1)} among the files '
            f'({there}), expected one file or variable with rows, columns and bands; '
            f'name it with --cube and --cube_variable{"" if cubes else _bands_hint(items)}'
        )
    return cubes[0]


def _bands_hint(items: Sequence[Candidate]) -> str:
    """Suggest a pattern where maps have numbered names, for messages."""
    maps = [item for item in items if len(item.shape) == 2 or item.shape[2:] == (1,)]
    for option, names in (
        ('cube_variable', [item.variable for item in maps if item.variable]),
        ('cube', [item.paths[0] for item in maps if item.kind == 'raster']),
    ):
        alike: dict[str, list[list[str]]] = {}
        for name in names:
            stem = re.sub(r'\d+', '*', name)
            alike.setdefault(stem, []).append(re.split(r'(\d+)', name))
        series = max(alike.values(), key=len, default=[])
        if len(series) > 1:
            pattern = ''.join(
                parts[0] if len(set(parts)) == 1 else '*'
                for parts in zip(*series, strict=True)
            )
            return (
                f'; if the {len(series)} maps are its bands, a pattern names them: '
                f"--{option} '{pattern}'"
            )
    return ''


def _named_by(pattern: str | None, item: Candidate) -> bool:
    """Tell whether a pattern, as of a cube's bands, names a map."""
    name = item.variable or ''
    return len(item.shape) == 2 and fnmatch.fnmatch(name, pattern or '')


def _series(items: Sequence[Candidate], pattern: str) -> list[Candidate]:
    """Return the maps that a pattern names as one cube."""
    maps = [item for item in items if _named_by(pattern, item)]
    alike = {(item.paths, item.shape) for item in maps}
    return [
        Candidate(paths, 'array', (*shape, len(maps)), pattern)
        for paths, shape in alike
        if len(alike) == 1
    ]


def _fitting(
    items: Sequence[Candidate], cube: Candidate, known: Mapping[str, Any]
) -> list[Candidate]:
    """List what may be labels of a cube."""
    items = _asked_for(items, known)
    orders = ('yxb',) if cube.told and 'axes' not in known else _AXES
    arrays = [
        item
        for item in items
        if item.kind == 'array'
        and len(item.shape) == 2
        and (cube.kind != 'array' or _orders(cube.shape, item.shape, orders))
    ]
    flat = [item for item in items if item.kind == 'raster' and item.shape[2] == 1]
    vectors = [item for item in items if item.kind == 'vector']
    found = [item for item in [*arrays, *flat, *vectors] if item.whole is not False]
    return found or [*arrays, *flat]


def _asked_for(items: Sequence[Candidate], known: Mapping[str, Any]) -> list[Candidate]:
    """Leave out what is not the file or variable that is named as labels."""
    return [
        item
        for item in items
        if item.paths[0] == str(known.get('labels', item.paths[0]))
        and item.variable == known.get('labels_variable', item.variable)
    ]


def _several(found: Sequence[Candidate]) -> str:
    """Say that there is more than one label map."""
    return (
        f'found {len(found)} label files or variables ({listed(found, _SHOWN, "; ")}), '
        'expected one; name it with --labels (the folder, if they are tiles) and '
        '--labels_variable'
    )


def _choose_labels(
    items: Sequence[Candidate],
    found: Sequence[Candidate],
    cube: Candidate,
    known: Mapping[str, Any],
) -> Candidate | None:
    """Find the labels of a cube, or None."""
    if len(found) > 1:
        raise ValueError(_several(found))
    items = _asked_for(items, known)
    if not found and 'labels' in known and not any(i.kind == 'array' for i in items):
        # A picture of several bands, or what else is named: it is read as labels.
        return items[0] if items else Candidate((str(known['labels']),), 'file')
    if not found and 'labels' in known:
        raise ValueError(
            f'labels: found no label map of the size of {cube} in {known["labels"]}, '
            'expected rows and columns of the cube, a raster, polygons or points'
        )
    return found[0] if found else None


def _orders(
    cube: Sequence[int], labels: Sequence[int], orders: Sequence[str] = _AXES
) -> list[str]:
    """List the orders of a cube's axes under which labels fit, the likeliest first."""
    fitting = {
        ''.join(order)
        for order in permutations('yxb')
        if (cube[order.index('y')], cube[order.index('x')]) == tuple(labels)
    }
    return [order for order in orders if order in fitting]


def _describe_cube(
    cube: Candidate,
    labels: Candidate | None,
    options: dict[str, Any],
    notes: dict[str, str],
) -> None:
    """Choose variable and order of axes."""
    if cube.kind != 'array':
        return
    if cube.variable is not None:
        options.setdefault('cube_variable', cube.variable)
        notes['cube_variable'] = ' x '.join(map(str, cube.shape)) + ' values'
    if cube.told or 'axes' in options or glob.has_magic(cube.variable or ''):
        return
    if labels is not None and labels.kind == 'array':
        order = _orders(cube.shape, labels.shape)[0]
        notes['axes'] = 'rows (y), columns (x), bands (b): as the labels fit'
    else:
        first, second, third = cube.shape
        order = 'byx' if second == third != first else 'yxb'
        notes['axes'] = 'rows (y), columns (x), bands (b): a guess, look at the picture'
    if order != 'yxb':
        options['axes'] = order


def _describe_labels(
    labels: Candidate, options: dict[str, Any], notes: dict[str, str]
) -> None:
    """Choose the variable, or the attribute of vector labels."""
    if labels.kind == 'array' and labels.variable is not None:
        options.setdefault('labels_variable', labels.variable)
        notes['labels_variable'] = ' x '.join(map(str, labels.shape)) + ' values'
    if labels.kind != 'vector' or 'attribute' in options:
        return
    path = labels.paths[0]
    files = sorted(glob.glob(path)) if labels.several else [path]
    _choose_layer(files[0], options)
    frames = [read_features(Path(file), options.get('layer')).frame for file in files]
    frame = pd.concat([one.drop(columns=one.geometry.name) for one in frames])
    columns = _class_columns(frame)
    if not columns:
        raise ValueError(
            f'{path}: found {len(frame)} features with the attributes '
            f'{sorted(map(str, frame.columns))}, expected one that holds classes; name '
            'it with --attribute'
        )
    options['attribute'] = columns[0]
    others = f'; others: {", ".join(columns[1:])}' if columns[1:] else ''
    notes['attribute'] = f'{frame[columns[0]].nunique()} values{others}'


def _choose_layer(path: str, options: dict[str, Any]) -> None:
    """Take the first layer with geometries of several, unless one is named."""
    if 'layer' in options or Path(path).suffix.lower() not in LAYERED:
        return
    layers, drawn = layers_of(Path(path))
    if len(layers) > 1 and drawn:
        options['layer'] = drawn[0]


def _class_columns(frame: pd.DataFrame) -> list[str]:
    """List the columns that may hold classes, the likeliest first."""
    ranked = []
    for name in frame.columns:
        values = frame[name].dropna()
        if pd.api.types.is_string_dtype(values):  # as tables hold numbers, too
            numeric = pd.to_numeric(values, errors='coerce')
            values = numeric if numeric.notna().all() else values
        kinds = values.nunique()
        text = not pd.api.types.is_numeric_dtype(values)
        numbers = not text and bool((values % 1 == 0).all())
        if not (text or numbers) or not 1 < kinds <= _MANY:
            continue
        unique = kinds == len(values) > 2  # or one polygon a class
        lowered = str(name).lower()
        words = (*_OF_CLASSES, *_OF_EITHER)
        word = next(
            (rank for rank, word in enumerate(words) if word in lowered), len(words)
        )
        known = word < len(_OF_CLASSES if unique else words)
        ranked.append((not known, unique, word, not text, str(name)))
    return [name for *_, name in sorted(ranked)]


def _find_wavelengths(
    items: Sequence[Candidate], options: dict[str, Any], notes: dict[str, str]
) -> None:
    """Take a text file of numbers for the band centres."""
    texts = [item.paths[0] for item in items if item.kind == 'text']
    if len(texts) == 1 and 'wavelengths' not in options:
        options['wavelengths'] = texts[0]
        notes['wavelengths'] = 'one number a band'


class _Heard(logging.Handler):
    """Keeps what is said while a scene is opened."""

    def __init__(self) -> None:
        """Start with nothing heard."""
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a message."""
        self.texts.append(record.getMessage())


def _open(
    cube: Candidate,
    labels: Candidate | None,
    options: dict[str, Any],
    notes: dict[str, str],
) -> SceneFiles:
    """Open the scene; NaN values are declared missing if they are in the way."""
    paths = list(cube.paths) + (list(labels.paths) if labels is not None else [])
    centres = options.get('wavelengths')
    paths += [centres] if isinstance(centres, str) else []
    root = _common_folder(paths)
    heard = _Heard()
    package = logging.getLogger(__package__.split('.')[0])
    package.addHandler(heard)
    propagates, package.propagate = package.propagate, False
    label_path = None if labels is None else labels.paths[0]
    cube_paths: Any = cube.paths if cube.many else cube.paths[0]
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter('always')
            try:
                scene = open_scene(cube_paths, label_path, **options)
            except ValueError as error:
                if 'NaN' not in str(error) or 'nodata' in options:
                    raise
                scene = open_scene(cube_paths, label_path, nodata='nan', **options)
                options['nodata'] = float('nan')
                notes['nodata'] = 'the cube has NaN values'
    finally:
        package.removeHandler(heard)
        package.propagate = propagates
    said = [str(item.message) for item in caught if _is_ours(item.category)]
    inside = [relative_path(path, root) for path in cube.paths]
    if isinstance(centres, str):
        options['wavelengths'] = relative_path(centres, root)
    return SceneFiles(
        root=root,
        cube=inside if cube.many else inside[0],
        labels=None if label_path is None else relative_path(label_path, root),
        options=options,
        notes=notes,
        scene=scene,
        warnings=list(dict.fromkeys([*heard.texts, *said])),
    )


def _common_folder(paths: Sequence[str]) -> Path:
    """Give the folder that all files lie below; that of the first on other drives."""
    folders = [os.path.abspath(Path(path).parent) for path in paths]
    try:
        return Path(os.path.commonpath(folders))
    except ValueError:
        return Path(folders[0])


def _is_ours(category: type[Warning]) -> bool:
    """Tell a warning about the scene from those about programs."""
    return issubclass(category, UserWarning) and not issubclass(
        category, NotGeoreferencedWarning
    )
