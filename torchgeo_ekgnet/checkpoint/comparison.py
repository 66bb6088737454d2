# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Whether a network and data, or two networks, belong together."""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray

from .provenance import trained_bands

UNITS = {'in_channels': 'bands', 'num_classes': 'classes'}
"""What the sizes of a network count."""

_CHOOSE = {
    'in_channels': 'bands=, by number also those that the file marks as bad',
    'num_classes': 'class_names=',
}
"""Arguments of data that change what their sizes count."""

NEAREST_BANDS = (
    'map it with the nearest ones (in Python, predict_map with match_wavelengths=True)'
)
"""What else can be done where the wavelengths of network and scene are known."""

_PREPROCESSING = ('num_bands', 'patch_size', 'padding_mode', 'normalization', 'pca')


def check_sizes(network: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Refuse data of other sizes than a network was built for.

    Args:
        network: Sizes of the network by argument: 'in_channels', 'num_classes' and
            'img_size'; None or left out where they are not given.
        data: The same sizes of the data.

    Raises:
        ValueError: If two sizes differ.
    """
    for name, unit in UNITS.items():
        ours, found = network.get(name), data.get(name)
        if None not in (ours, found) and ours != found:
            raise ValueError(
                f'{name}: the network has {ours} {unit}, the data have {found}; a '
                f'trained network knows only the {unit} that it was trained on: choose '
                f'the same ones ({_CHOOSE[name]}); for a new one pass {name}={found}, or '
                'leave it out to take it from the datamodule'
            )
    ours, found = network.get('img_size'), data.get('img_size')
    if None not in (ours, found) and ours != found:
        raise ValueError(
            f"model_options: img_size is {ours}, the data's patch_size is {found}"
        )


def check_same_network(
    checkpoint: Mapping[str, Any], network: Mapping[str, Any]
) -> None:
    """Refuse the checkpoint of another network.

    Args:
        checkpoint: Content of the checkpoint.
        network: 'model', 'in_channels' and 'num_classes' of the network that is to
            receive its weights; None where they are not known.

    Raises:
        ValueError: If one differs.
    """
    saved = checkpoint.get('hyper_parameters') or {}
    for name in ('model', *UNITS):
        theirs, ours = saved.get(name), network[name]
        if None not in (theirs, ours) and theirs != ours:
            raise ValueError(
                f'the checkpoint was trained with {name} {theirs!r}, this task has '
                f'{ours!r}: use the configuration of its run'
            )


def match_classes(
    trained: Mapping[str, Any], scene: Mapping[str, Any]
) -> tuple[int | None, ...]:
    """Find the classes of a scene among those that a network was trained on.

    Classes are the same if their names are: as they are written, or else case and spaces
    apart. A class that has no name but the default one, ``class VALUE``, on either side is
    found by its value among those that no name has found. No two classes are the same one.

    Args:
        trained: 'class_names' and 'class_values' of the scene that the network was
            trained on.
        scene: The same of another scene.

    Returns:
        For each class of the scene its number, from 0, in the network; None for a class
        that the network does not know.
    """
    theirs, ours = _classes(trained), _classes(scene)
    free = dict(enumerate(theirs))
    found: list[int | None] = [None] * len(ours)
    for same in (_same_text, _same_name, _same_value):
        for place, one in enumerate(ours):
            matches = [number for number, other in free.items() if same(one, other)]
            if found[place] is None and matches:
                found[place] = matches[0]
                del free[matches[0]]
    return tuple(found)


def _classes(scene: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Give name, in one line, and value of each class; no name for the default one."""
    # Programs store an umlaut as one character or as two.
    lines = (' '.join(str(name).split()) for name in scene['class_names'])
    names = [unicodedata.normalize('NFC', line) for line in lines]
    values = scene.get('class_values') or range(1, len(names) + 1)
    return [
        ('' if name.casefold() == f'class {value}' else name, int(value))
        for name, value in zip(names, values, strict=True)
    ]


def _same_text(one: tuple[str, int], other: tuple[str, int]) -> bool:
    """Whether both have a name, written alike."""
    return one[0] == other[0] != ''


def _same_name(one: tuple[str, int], other: tuple[str, int]) -> bool:
    """Whether both have a name, alike but for case."""
    return one[0].casefold() == other[0].casefold() != ''


def _same_value(one: tuple[str, int], other: tuple[str, int]) -> bool:
    """Whether both have a value, and one of them no name."""
    return one[1] == other[1] and '' in (one[0], other[0])


def check_same_classes(
    state: Mapping[str, Any], scene: str, class_names: Sequence[str], source: str
) -> None:
    """Refuse a scene of other classes than a network was trained on.

    Args:
        state: State of the datamodule that the network was trained with.
        scene: Name of the scene.
        class_names: Names of its classes.
        source: The checkpoint, for messages.

    Raises:
        ValueError: If they differ.
    """
    trained = state['scene']
    theirs, ours = list(trained['class_names']), list(class_names)
    if theirs != ours:
        raise ValueError(
            f'{source} was trained on the {len(theirs)} classes {theirs} of '
            f'{trained["name"]}, the scene {scene} has the {len(ours)} classes {ours}; '
            'leave its labels out (--data.labels null), or use the configuration of the '
            'run'
        )


def check_same_pixels(
    state: Mapping[str, Any],
    mine: Mapping[str, Any],
    allow_other_split: bool,
    scored: bool = True,
) -> None:
    """Refuse data of another preprocessing or, if not allowed, other pixels.

    Args:
        state: State of the datamodule that a network was trained with.
        mine: Description of the datamodule that is to show it data.
        allow_other_split: Whether other pixels are only warned about.
        scored: Whether there are labels; without them there is no score to spoil.

    Raises:
        ValueError: If they differ, or their bands do.
    """
    for message in _other_preprocessing(state, mine):
        raise ValueError(message)
    theirs, ours = trained_bands(state), trained_bands(mine)
    difference = other_bands(*theirs, *ours)
    if difference is not None:
        known = theirs[1] is not None and ours[1] is not None
        raise ValueError(
            f'the checkpoint was trained on other bands than the scene '
            f'{mine["scene"]["name"]} has: {difference}; select the same bands in the '
            f'same order (--data.bands){f", or {NEAREST_BANDS}" if known else ""}'
        )
    for message in _other_pixels(state, mine) if scored else ():
        if not allow_other_split:
            raise ValueError(
                f'{message}. Its scores here would count pixels that it was trained '
                'on. Use the split of the checkpoint, or allow_other_split=True '
                '(--data.allow_other_split true) if you mean it'
            )
        rank_zero_warn(f'{message}; accepted because allow_other_split is set')


def other_bands(
    num_bands: int,
    wavelengths: NDArray[np.float64] | None,
    found_bands: int,
    found: NDArray[np.float64] | None,
) -> str | None:
    """Say where the bands of a scene are not those that a network was trained on.

    Bands are the same if their number is, and if no centre differs by more than half
    the distance to its neighbour.

    Args:
        num_bands: Bands of the network.
        wavelengths: Their centres in nm, or None.
        found_bands: Bands of the scene.
        found: Their centres in nm, or None.

    Returns:
        The difference, None if there is none.
    """
    if num_bands != found_bands:
        return f'{num_bands} bands there, {found_bands} here'
    if wavelengths is None or found is None:
        return None
    off = np.abs(found - wavelengths) - reach(wavelengths)
    worst = int(off.argmax())
    if off[worst] <= 0:
        return None
    return (
        f'band {worst + 1} lies at {wavelengths[worst]:.1f} nm there and at '
        f'{found[worst]:.1f} nm here'
    )


def reach(wavelengths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Tell how far a band may lie from another one and still be the same.

    Args:
        wavelengths: Band centres in nm.

    Returns:
        Half the distance from each band to its nearer neighbour, at least 0.5 nm; 10 nm
        for a band without neighbours.
    """
    if len(wavelengths) < 2:
        return np.full(len(wavelengths), 10.0)
    order = np.argsort(wavelengths)
    steps = np.diff(wavelengths[order])
    nearer = np.minimum(np.append(steps, np.inf), np.insert(steps, 0, np.inf))
    reached: NDArray[np.float64] = np.empty_like(nearer)
    reached[order] = np.maximum(nearer / 2, 0.5)
    return reached


def doubt_seen_pixels(state: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    """Warn if a training begins with a network that has seen other pixels of its cube.

    Tuning may do so on purpose; scores of the new split then count what was seen.

    Args:
        state: State of the datamodule that the network was trained with.
        mine: Description of the datamodule that is to train it.
    """
    before, now = state['scene'].get('cube'), mine['scene'].get('cube')
    if before is None or before != now:
        return
    theirs, ours = state['split'], mine['split']
    if _pixels_of(theirs) != _pixels_of(ours):
        rank_zero_warn(
            f'fit: the network was trained on {mine["scene"]["name"]} before, with '
            f'another split ({theirs["protocol"]} {theirs["settings"]}): validation and '
            'test pixels of this one may be among those that it has seen. Begin with a '
            'new network, or keep the split'
        )


def doubt_part_of_epoch(checkpoint: Mapping[str, Any]) -> None:
    """Warn if a training goes on within an epoch, whose order is not kept.

    Lightning counts the batches of the epoch that are left, and takes them from a new one.

    Args:
        checkpoint: Content of the checkpoint that ``fit`` goes on from.
    """
    loop = (checkpoint.get('loops') or {}).get('fit_loop') or {}
    batches = loop.get('epoch_loop.batch_progress') or {}
    done = (batches.get('current') or {}).get('ready')
    # Tuners of Lightning restore what they save before the first batch.
    if batches.get('is_last_batch', True) or not done:
        return
    rank_zero_warn(
        f'fit: the checkpoint is one of within an epoch, after {done} of its batches: '
        'the rest of it is drawn anew, some pixels come twice and others not at all, and '
        'the weights will not be those of a training that was not interrupted; expected '
        'a checkpoint of the end of an epoch (without every_n_train_steps, '
        'train_time_interval and val_check_interval)'
    )


def _other_preprocessing(
    state: Mapping[str, Any], mine: Mapping[str, Any]
) -> Iterator[str]:
    """Say where the preprocessing of a checkpoint is not that of a datamodule."""
    for name in _PREPROCESSING:
        theirs, ours = state.get(name), mine[name]
        if name == 'pca' and theirs is not None and ours is not None:
            keys = ('num_components', 'whiten')
            theirs, ours = ({key: pca[key] for key in keys} for pca in (theirs, ours))
        if theirs != ours:
            yield (
                f'the checkpoint was trained with {name} {theirs!r}, this data module '
                f'has {ours!r}: set it to the value of the checkpoint'
            )


def _other_pixels(state: Mapping[str, Any], mine: Mapping[str, Any]) -> Iterator[str]:
    """Say where the pixels of a checkpoint are not those of a datamodule."""
    if state['scene']['name'] != mine['scene']['name']:
        yield (
            f'the checkpoint was trained on scene {state["scene"]["name"]!r}, this '
            f'data module has {mine["scene"]["name"]!r}'
        )
    cubes = [data['scene'].get('cube') for data in (state, mine)]
    if state['bands'] != mine['bands']:
        yield 'the checkpoint was trained on other bands of the file'
    elif None not in cubes and cubes[0] != cubes[1]:
        yield (
            f'the checkpoint was trained on another cube: {state["scene"]["source"]} '
            f'(digest {cubes[0][:12]}), this data module has '
            f'{mine["scene"]["source"]} (digest {cubes[1][:12]})'
        )
    theirs, ours = state['split'], mine['split']
    if _pixels_of(theirs) != _pixels_of(ours):
        yield (
            f'the checkpoint was trained with another split: {theirs["protocol"]} '
            f'{theirs["settings"]} (identity {theirs["identity"][:12]}), this data '
            f'module has {ours["protocol"]} {ours["settings"]} (identity '
            f'{ours["identity"][:12]})'
        )


def _pixels_of(split: Mapping[str, Any]) -> str:
    """What two splits of the same pixels share, whichever protocol drew them."""
    return str(split.get('pixels', split['identity']))
