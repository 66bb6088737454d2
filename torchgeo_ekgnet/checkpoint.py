# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What a checkpoint says of its training run, and whether other data are the same.

Task, datamodules and maps meet here: the task writes a :class:`Provenance` into its
checkpoints, and whoever shows the network data compares them with it.
"""

import os
import pickle
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from safetensors.torch import load_file

from ._reading import FileError, reading

__all__ = (
    'LocalCheckpointIO',
    'Provenance',
    'check_same_classes',
    'check_same_network',
    'check_same_pixels',
    'check_sizes',
    'check_training_data',
    'data_state',
    'local_file',
    'match_classes',
    'read_checkpoint',
    'read_tensors',
    'trained_bands',
)

KEY = 'torchgeo_ekgnet'
"""Entry of a checkpoint under which the task writes its :class:`Provenance`."""

_STATE = frozenset(('scene', 'split', 'patch_size', 'padding_mode', 'num_bands'))
_NAMES_FILES = frozenset(
    (
        'cache_dir',
        'checkpoint_path',
        'pretrained',
        'pretrained_cfg',
        'pretrained_cfg_overlay',
    )
)
_UNITS = {'in_channels': 'bands', 'num_classes': 'classes'}
_PREPROCESSING = ('num_bands', 'patch_size', 'padding_mode', 'normalization', 'pca')


@dataclass(frozen=True)
class Provenance:
    """The training run that made the weights of a network.

    Attributes:
        data: State of its datamodule (scene, split, preprocessing and its statistics);
            None if that is not known.
        epochs: Epochs begun; None if not known.
        seed: Seed of the run; None if none was set.
        versions: Versions that the result depends on, by package.
    """

    data: Mapping[str, Any] | None = None
    epochs: int | None = None
    seed: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> 'Provenance':
        """Read what :meth:`to_dict` gave."""
        return cls(
            data=values.get('data') or None,
            epochs=values.get('epochs'),
            seed=values.get('seed'),
            versions=dict(values.get('versions') or {}),
        )

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any]) -> 'Provenance | None':
        """Read from which run a checkpoint comes.

        Args:
            checkpoint: Content of a checkpoint, also of torchgeo's own task, of which
                the state of a datamodule is known at most.

        Returns:
            The run; None if the checkpoint tells nothing of it.
        """
        values = {**(checkpoint.get(KEY) or {}), 'data': data_state(checkpoint)}
        return cls.from_dict(values) if any(values.values()) else None

    def to_dict(self) -> dict[str, Any]:
        """Give what a checkpoint can hold."""
        return asdict(self)


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a checkpoint; nothing that it names is imported, opened or fetched.

    Args:
        path: The file.

    Returns:
        Its content.

    Raises:
        FileNotFoundError: If there is no such file, or it is an address.
        FileError: If it is not a checkpoint, or names what it must not.
    """
    content = read_tensors(path, 'checkpoint')
    if not isinstance(content.get('state_dict'), Mapping):
        raise FileError(
            f'{path} is not a Lightning checkpoint: found no entry state_dict, expected '
            'a file that fit wrote, such as RUN/checkpoints/best.ckpt'
        )
    _check_names(path, content)
    return content


def read_tensors(path: str | os.PathLike[str], what: str) -> dict[str, Any]:
    """Read a file of tensors and plain values.

    Args:
        path: The file.
        what: What it is, for messages.

    Returns:
        Its content.

    Raises:
        FileNotFoundError: If there is no such file, or it is an address.
        FileError: If it is damaged, empty, of another kind, or names classes.
    """
    file = local_file(path, what)
    with reading(file, f'a {what}'):
        try:
            if file.suffix == '.safetensors':
                content: Any = load_file(file)
            else:
                content = torch.load(file, map_location='cpu', weights_only=True)
        except pickle.UnpicklingError as error:
            # PyTorch's own message advises to unpickle without limits.
            named = re.search(r'GLOBAL ([\w.]+)', str(error))
            if named is None:
                raise ValueError('it is no file of torch.save') from error
            raise FileError(
                f'{file} names {named[1]}, expected tensors and plain values only: '
                'such a file can run code when it is read, and is not read; save the '
                'state_dict of its network'
            ) from error
    if not isinstance(content, dict) or not content:
        raise FileError(
            f'{file} holds no {what}: found {type(content).__name__} of '
            f'{len(content) if hasattr(content, "__len__") else 1} entries, expected '
            'tensors by name'
        )
    return content


def local_file(path: str | os.PathLike[str], what: str) -> Path:
    """Find a local file; an address is none, whatever scheme it has.

    Args:
        path: The file.
        what: What it is, for messages.

    Returns:
        Its path.

    Raises:
        FileNotFoundError: If there is no such file, or it is an address.
    """
    text = os.fspath(path)
    try:
        file = Path(text)
        if file.is_file():
            return file
        folder = file.is_dir()
    except (OSError, ValueError):
        folder = False
    if folder:
        raise FileNotFoundError(f'{what}: {text} is a folder, expected a file')
    scheme = re.match(r'[A-Za-z][\w+.-]+:', text)
    if scheme:
        raise FileNotFoundError(
            f'{what}: found an address ({scheme[0]}...), expected the path of a local '
            'file: download it from a source that you trust, and give its path'
        )
    raise FileNotFoundError(
        f'there is no {what} {text}; fit writes checkpoints/best.ckpt into its run '
        'folder'
    )


class LocalCheckpointIO(CheckpointIO):
    """Reads checkpoints with :func:`read_checkpoint`, and writes them as before.

    Lightning's own reader takes addresses, and unpickles what comes from them.
    """

    def __init__(self, writer: CheckpointIO) -> None:
        """Initialize.

        Args:
            writer: What writes and removes checkpoints.
        """
        self.writer = writer

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint."""
        return read_checkpoint(path)

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Write a checkpoint."""
        self.writer.save_checkpoint(checkpoint, path, storage_options)

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint."""
        self.writer.remove_checkpoint(path)

    def teardown(self) -> None:
        """End what the writer has begun."""
        self.writer.teardown()


def _check_names(path: Any, content: Mapping[str, Any]) -> None:
    """Refuse hyperparameters that name an address, a file, or a class to be imported.

    Lightning's command line builds the task from them.
    """
    settings = content.get('hyper_parameters') or {}
    found = None
    if not isinstance(settings, Mapping):
        found = f'hyper_parameters of type {type(settings).__name__}'
    elif not _is_plain(settings):
        found = 'hyper_parameters that are no plain values'
    else:
        options = settings.get('model_options') or {}
        files = _NAMES_FILES & (set(options) if isinstance(options, Mapping) else set())
        name, task = settings.get('model'), settings.get('_class_path')
        if settings.get('weights'):
            found = f'weights {settings["weights"]!r}'
        elif files:
            found = f'model_options {sorted(files)}'
        elif isinstance(name, str) and re.search(r'[:/\\]', name):
            found = f'the model {name!r}'
        elif task is not None and not _is_imported(task):
            found = f'the class {task!r}'
    if found is not None:
        raise FileError(
            f'{path}: found {found}, expected a checkpoint that names a registered '
            'network and its options only; a checkpoint must not tell what is opened, '
            'fetched or imported'
        )


def _is_plain(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(
            isinstance(key, str) and _is_plain(item) for key, item in value.items()
        )
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float | bool)


def _is_imported(name: Any) -> bool:
    """Tell whether a task's class is there already; what is not is not imported."""
    module, _, attribute = str(name).rpartition('.')
    found = getattr(sys.modules.get(module), attribute, None)
    return isinstance(found, type) and issubclass(found, LightningModule)


def data_state(checkpoint: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Find what a checkpoint says about its data.

    Args:
        checkpoint: Content of a checkpoint.

    Returns:
        State of its datamodule, or None if it has none of this package.
    """
    entry = checkpoint.get(KEY)
    own = entry.get('data') if isinstance(entry, Mapping) else None
    for value in (own, *checkpoint.values()):
        if isinstance(value, Mapping) and set(value) >= _STATE:
            return value
    return None


def trained_bands(state: Mapping[str, Any]) -> tuple[int, NDArray[np.float64] | None]:
    """Tell which bands of a scene a network was trained on, before PCA.

    Args:
        state: State of the datamodule that it was trained with.

    Returns:
        Number of bands, and their centres in nm if these are known.
    """
    scene = state['scene']
    shape, centres = scene.get('shape'), scene.get('wavelengths')
    return (
        int(state['num_bands'] if shape is None else shape[2]),
        None if centres is None else np.asarray(centres, dtype=np.float64),
    )


def check_sizes(network: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Refuse data of other sizes than a network was built for.

    Args:
        network: Sizes of the network by argument: 'in_channels', 'num_classes' and
            'img_size'; None or left out where they are not given.
        data: The same sizes of the data.

    Raises:
        ValueError: If two sizes differ.
    """
    for name, unit in _UNITS.items():
        ours, found = network.get(name), data.get(name)
        if None not in (ours, found) and ours != found:
            raise ValueError(
                f'{name}: the network has {ours} {unit}, the data have {found}; pass '
                f'{name}={found}, or leave it out to take it from the datamodule; a '
                f'checkpoint knows only the {unit} that it was trained on'
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
    for name in ('model', *_UNITS):
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

    Classes are the same if their names are (case and spaces apart); a class that has no
    name but the default one, ``class VALUE``, on either side is found by its value.

    Args:
        trained: 'class_names' and 'class_values' of the scene that the network was
            trained on.
        scene: The same of another scene.

    Returns:
        For each class of the scene its number, from 0, in the network; None for a class
        that the network does not know.
    """
    theirs = list(zip(*_classes(trained), strict=True))
    found: list[int | None] = []
    for name, value in zip(*_classes(scene), strict=True):
        matches = [
            number
            for number, (other, its_value) in enumerate(theirs)
            if (
                other == name
                if _is_named(name, value) and _is_named(other, its_value)
                else its_value == value
            )
        ]
        found.append(matches[0] if matches else None)
    return tuple(found)


def _classes(scene: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    names = [' '.join(str(name).split()).casefold() for name in scene['class_names']]
    values = scene.get('class_values') or range(1, len(names) + 1)
    return names, [int(value) for value in values]


def _is_named(name: str, value: int) -> bool:
    return name not in ('', f'class {value}')


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
            'use the configuration of its run, or, in Python, '
            'torchgeo_ekgnet.maps.write_map(checkpoint, scene, folder)'
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
        ValueError: If they differ.
    """
    for message in _other_preprocessing(state, mine):
        raise ValueError(message)
    for message in _other_pixels(state, mine) if scored else ():
        if not allow_other_split:
            raise ValueError(
                f'{message}. Its scores here would count pixels that it was trained '
                'on. Use the split of the checkpoint, or allow_other_split=True '
                '(--data.allow_other_split true) if you mean it'
            )
        rank_zero_warn(f'{message}; accepted because allow_other_split is set')


def check_training_data(datamodule: Any) -> None:
    """Refuse to show a network other pixels than those it was trained with.

    A task of this package remembers the state of its training data, whichever way its
    weights came to be: trained in this process, loaded by Lightning or by itself. The
    datamodule takes that state over as if Lightning had restored it. Of other tasks,
    Lightning restores it from the checkpoint; that of another datamodule never gets
    to ``load_state_dict``, and its split is not known.

    Args:
        datamodule: Datamodule with ``trainer``, ``load_state_dict``,
            ``allow_other_split``, and the path of the checkpoint that it has checked
            under ``_checked_checkpoint``.

    Raises:
        ValueError: If the network was, or may have been, trained on other data.
    """
    trainer = datamodule.trainer
    if trainer is None:
        return
    provenance = getattr(trainer.lightning_module, 'provenance', None)
    known = provenance.data if isinstance(provenance, Provenance) else None
    if known is not None and trainer.state.fn != 'fit':
        datamodule.load_state_dict(dict(known))
    path = trainer.ckpt_path
    if path is None or path == datamodule._checked_checkpoint:
        return
    message = (
        f'checkpoint {path} holds no split of {type(datamodule).__name__}: it was '
        'trained with another data module'
    )
    if not datamodule.allow_other_split:
        raise ValueError(
            f'{message}, and its scores here may count pixels that it was trained '
            'on. Use its own data module, or allow_other_split=True '
            '(--data.allow_other_split true) if you mean it'
        )
    rank_zero_warn(f'{message}; accepted because allow_other_split is set')
    datamodule._checked_checkpoint = path


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
