# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""What a table, figure or ablation is, and the settings of its runs.

Nothing here runs anything: an :class:`Experiment` says which systems are trained on
which scene under which split and patch size, :func:`run_settings` turns one row and
one seed into the settings of one run, and the repeat engine runs them.
"""

import copy
import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal

import yaml

from ..callbacks import TemperatureAnnealing
from ..models import SpectralSpatialNet, network_class
from .classical import CLASSICAL_NAMES

_PACKAGE = 'torchgeo_ekgnet'

_DATAMODULES = f'{_PACKAGE}.datamodules'

_SPLITS = f'{_PACKAGE}.datasets.splits'

_TASKS = f'{_PACKAGE}.tasks'


FIRST_SEED = 1331
"""Seed of the first run; the released code numbers its runs from here."""

LAST_EPOCH = {'monitor': None, 'save_on_train_epoch_end': True}
"""Arguments of ``ModelCheckpoint`` that keep the weights of the last epoch, whether or
not it was validated."""

SCENES = {
    'indian_pines': 'IndianPinesDataModule',
    'pavia_university': 'PaviaUniversityDataModule',
    'ksc': 'KSCDataModule',
    'salinas_a': 'SalinasADataModule',
    'salinas': 'SalinasDataModule',
    'botswana': 'BotswanaDataModule',
    'pavia_centre': 'PaviaCentreDataModule',
    'houston2013': 'Houston2013DataModule',
    'synthetic': 'SyntheticSceneDataModule',
}
"""Scenes that ``--scene`` knows, with their datamodules."""

Temperature = Literal['anneal', 'learnt', 'fixed']


@dataclass(frozen=True)
class Row:
    """One line of a table: a system and what is varied.

    Attributes:
        key: Name of the line, the ``value`` column of the published results.
        label: Name as it is printed.
        model: timm name of the network or name of a classical baseline.
        options: Arguments of the network beyond bands and classes.
        patch_size: Rows and columns of a patch in pixels.
        train: Share of training pixels in each class.
        val: Share of validation pixels.
        temperature: How the temperature of dynamic convolutions is treated:
            ``'anneal'``: from 34 to 1; ``'learnt'``: a parameter that starts at 34 and
            that nothing anneals, as in the released code; ``'fixed'`` at 34.
        split: One of :data:`PROTOCOLS` where rows differ in it, None: the user's.
        extra: True if the paper has no such line; run with ``--extra`` only.
        recipe: How it is trained, whatever the budget; None: as the budget says.
    """

    key: str
    label: str
    model: str = 'ekgnet_base'
    options: Mapping[str, Any] = field(default_factory=dict)
    patch_size: int = 15
    train: float = 0.6
    val: float = 0.1
    temperature: Temperature = 'anneal'
    split: str | None = None
    extra: bool = False
    recipe: 'Recipe | None' = None

    @property
    def classical(self) -> bool:
        """True for a scikit-learn baseline on single spectra."""
        return self.model in CLASSICAL_NAMES


@dataclass(frozen=True)
class Experiment:
    """A table, figure or ablation.

    Attributes:
        key: Name on the command line, such as ``'table4'``.
        title: Heading, without the scene.
        scene: Scene that the paper uses, or the one that an ablation starts from.
        variable: What differs between rows, as in the published results.
        rows: The lines, in the paper's order.
        number: Number of the published table, None if there is none.
        maps: True if a classification map of every row is drawn.
    """

    key: str
    title: str
    scene: str
    variable: str
    rows: tuple[Row, ...]
    number: int | None = None
    maps: bool = False


@dataclass(frozen=True)
class Recipe:
    """How one system is trained.

    Attributes:
        epochs: Number of epochs.
        batch_size: Patches a step.
        lr: Learning rate of Adam in the first epoch; it falls to 0 along a cosine.
        custom: True for the recipe of ``custom.yaml`` in the place of Adam, with whole
            patches, flipped and turned.
        components: Whitened principal components that a network is shown in the place
            of bands; None: bands.
    """

    epochs: int
    batch_size: int = 80
    lr: float = 5e-4
    custom: bool = False
    components: int | None = None


@dataclass(frozen=True)
class Budget:
    """How much of the paper's effort is spent.

    Attributes:
        name: Name on the command line.
        seeds: Number of seeds unless the user says otherwise.
        recipes: Training recipe of each network.
        default: Recipe of networks that ``recipes`` does not list.
        patch_limit: Largest patch of experiments that do not vary it, None: any.
        train_limit: Largest share of training pixels of experiments that do not
            vary it, None: any. Where the share is varied, the recipes' epochs are
            those of this share and shrink as it grows.
        val_limit: Largest share of validation pixels, None: any.
        test_limit: Largest share of test pixels of a random split, None: all others.
        annealing: Share of the epochs over which the temperature falls by the same
            factor in each; None: the paper's, 3 less in each epoch.
        note: One sentence for the header of a report.
    """

    name: str
    seeds: int
    recipes: Mapping[str, Recipe]
    default: Recipe
    patch_limit: int | None = None
    train_limit: float | None = None
    val_limit: float | None = None
    test_limit: float | None = None
    annealing: float | None = None
    note: str = ''

    def recipe(self, model: str) -> Recipe:
        """Recipe of a network.

        Args:
            model: timm name.

        Returns:
            Its own recipe, or the budget's default.
        """
        return self.recipes.get(model, self.default)


@dataclass(frozen=True)
class Published:
    """One number of the paper.

    Attributes:
        percent: The value in percent.
        std: Standard deviation in percent, None where the paper gives none.
    """

    percent: float
    std: float | None = None


@cache
def _all_published() -> dict[tuple[int, str, str], Published]:
    """Read the published numbers by table, row and metric."""
    source = resources.files(__package__) / 'published_results.csv'
    with source.open(encoding='utf-8') as file:
        return {
            (int(line['table']), line['value'], line['metric']): Published(
                float(line['percent']), float(line['std']) if line['std'] else None
            )
            for line in csv.DictReader(file)
        }


def published(experiment: Experiment) -> dict[tuple[str, str], Published]:
    """The paper's numbers for an experiment.

    Args:
        experiment: A table, figure or ablation.

    Returns:
        Values by row key and metric (``'OA'``, ``'AA'``, ``'Kappa'``,
        ``'class_1'`` ...); empty if the paper has no such table.
    """
    return {
        (row, metric): value
        for (number, row, metric), value in _all_published().items()
        if number == experiment.number
    }


PROTOCOLS = ('random', 'disjoint', 'matched_random', 'matched_disjoint')
"""Split protocols of ``--split``: the paper's, one without shared pixels, and both once
more, thinned to the same pixels per class."""


def split_settings(
    protocol: str, train: float, val: float, seed: int, test: float | None = None
) -> dict[str, Any]:
    """Settings of a split.

    Args:
        protocol: ``'random'``: the paper's random split of the pixels of each class.
            ``'disjoint'``: spatially disjoint, no patch of the test pixels shares a
            pixel with a training patch. ``'matched_random'``, ``'matched_disjoint'``:
            one of the two, thinned to the counts and classes that both can serve.
        train: Share of training pixels.
        val: Share of validation pixels.
        seed: Seed of the split.
        test: Share of test pixels of a random split; None: all others.

    Returns:
        Class path and arguments.

    Raises:
        ValueError: If the protocol is unknown.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(
            f'split: unknown protocol {protocol!r}, expected one of '
            f'{", ".join(PROTOCOLS)}'
        )
    common = {'train': train, 'val': val, 'seed': seed}
    # Small or compact classes cannot be in two places: the report names them.
    apart = {
        'class_path': f'{_SPLITS}.DisjointSplit',
        'init_args': {**common, 'guard': 'patch', 'unserved': 'drop'},
    }
    drawn: dict[str, Any] = {
        'class_path': f'{_SPLITS}.RandomSplit',
        'init_args': dict(common),
    }
    if test is not None:
        drawn['init_args']['test'] = test
    if not protocol.startswith('matched_'):
        return drawn if protocol == 'random' else apart
    drawn['init_args']['unserved'] = 'drop'
    split, to = (drawn, apart) if protocol == 'matched_random' else (apart, drawn)
    return {
        'class_path': f'{_SPLITS}.MatchedSplit',
        'init_args': {'split': split, 'to': to, 'seed': seed},
    }


def run_settings(
    experiment: Experiment,
    row: Row,
    seed: int,
    budget: Budget,
    scene: str | None = None,
    protocol: str = 'random',
) -> dict[str, Any]:
    """Settings of one run: one row of an experiment with one seed.

    Args:
        experiment: The experiment that the row belongs to.
        row: The system.
        seed: Seed of the split and of the training.
        budget: How much effort is spent.
        scene: One of :data:`SCENES`; None: the experiment's own.
        protocol: One of :data:`PROTOCOLS`, for rows that do not name their own.

    Returns:
        JSON values for the repeat engine. Rows that mean the same run in two tables
        have equal settings, so that the run is done once.

    Raises:
        ValueError: If the scene or the protocol is unknown.
    """
    scene = experiment.scene if scene is None else scene
    if scene not in SCENES:
        raise ValueError(
            f'scene: unknown {scene!r}, expected one of {", ".join(SCENES)}'
        )
    patch_size, train, val = row.patch_size, row.train, row.val
    recipe = row.recipe or budget.recipe(row.model)
    epochs = recipe.epochs
    if budget.patch_limit is not None and experiment.variable != 'patch_size':
        patch_size = min(patch_size, budget.patch_limit)
    if budget.train_limit is not None:
        if experiment.variable == 'train_val_test':
            epochs = max(5, round(epochs * min(1, budget.train_limit / train)))
        else:
            train = min(train, budget.train_limit)
    if budget.val_limit is not None:
        val = min(val, budget.val_limit)
    data: dict[str, Any] = {
        'patch_size': patch_size,
        'split': split_settings(
            row.split or protocol, train, val, seed, budget.test_limit
        ),
    }
    if row.classical:
        # Spectra of single pixels: the patch size only enters the overlap shares.
        return _settings(scene, data, {'classical': row.model}, {}, seed)
    data['batch_size'] = recipe.batch_size
    if recipe.components is not None:
        data['pca'] = {'num_components': recipe.components, 'whiten': True}
    if recipe.custom:
        return _custom_settings(scene, data, row, epochs, seed)
    arguments = {
        'model': row.model,
        'lr': recipe.lr,
        'lr_schedule': 'cosine',
        'model_options': dict(row.options),
    }
    model = {
        'class_path': f'{_TASKS}.HyperspectralClassificationTask',
        'init_args': arguments,
    }
    callbacks, start_epoch = _schedules(
        row, epochs, budget.annealing, worth=experiment.key == 'expert_use'
    )
    trainer = {'max_epochs': epochs, 'callbacks': callbacks}
    settings = _settings(scene, data, model, trainer, seed)
    # Weights in the middle of a schedule are not those of the system in the table.
    settings['start_epoch'] = max(0, min(start_epoch, epochs - 1))
    return settings


def whole_patches(augmentation: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of an augmentation with flips and turns in the place of crops.

    Args:
        augmentation: Arguments of ``PatchAugmentation``.

    Returns:
        The arguments for networks that crops might not be made for.
    """
    kept = {k: v for k, v in augmentation.items() if k not in ('crop', 'crop_within')}
    return {**kept, 'flips': True, 'turns': True}


def _custom_settings(
    scene: str, data: dict[str, Any], row: Row, epochs: int, seed: int
) -> dict[str, Any]:
    """Settings of a run with the recipe of ``custom.yaml``, but for scene and split."""
    source = resources.files(_PACKAGE) / 'configs' / 'custom.yaml'
    custom = yaml.safe_load(source.read_text(encoding='utf-8'))
    own = custom['data']['init_args']
    data['padding_mode'] = own['padding_mode']
    data['augmentation'] = whole_patches(own['augmentation'])
    model = copy.deepcopy(custom['model'])
    model['init_args'].update(model=row.model, model_options=dict(row.options))
    trained = ('TemperatureAnnealing', 'MovingAverage', 'ExpertUse')
    trainer = {
        'max_epochs': epochs,
        'check_val_every_n_epoch': custom['trainer']['check_val_every_n_epoch'],
        'callbacks': [
            callback
            for callback in custom['trainer']['callbacks']
            if callback['class_path'].rpartition('.')[2] in trained
        ],
    }
    settings = _settings(scene, data, model, trainer, seed)
    settings['checkpoint'] = dict(LAST_EPOCH)
    return settings


def _schedules(
    row: Row, epochs: int, annealing: float | None, worth: bool
) -> tuple[list[dict[str, Any]], int]:
    """Callbacks that a network is trained with, and the epoch after their schedule."""
    callbacks: list[dict[str, Any]] = []
    start_epoch = 0
    network = network_class(row.model) or SpectralSpatialNet
    if network.has_experts:
        use: dict[str, Any] = {
            'class_path': f'{_PACKAGE}.callbacks.expert_use.ExpertUse'
        }
        if worth:
            use['init_args'] = {'measure_worth': True}
        callbacks.append(use)
        arguments = _annealing_arguments(row.temperature, epochs, annealing)
        if arguments:
            callbacks.append(
                {
                    'class_path': f'{_PACKAGE}.callbacks.TemperatureAnnealing',
                    'init_args': arguments,
                }
            )
            start_epoch = TemperatureAnnealing(**arguments).epochs
    if network.settled_share:
        # Without it nothing is pruned, as in the released port.
        callbacks.append(
            {'class_path': f'{_PACKAGE}.callbacks.pruning.PruningSchedule'}
        )
        start_epoch = math.ceil(network.settled_share * epochs)
    return callbacks, start_epoch


def _annealing_arguments(
    temperature: Temperature, epochs: int, share: float | None
) -> dict[str, Any]:
    """Arguments of ``TemperatureAnnealing``; none if the callback is not wanted."""
    if temperature == 'learnt':
        return {}
    if temperature == 'fixed':
        return {'step': None, 'learn': False}
    if share is None:
        return {'start': 34.0, 'end': 1.0, 'step': 3.0}
    decay = (1 / 34) ** (1 / max(1, round(share * epochs)))
    return {'start': 34.0, 'end': 1.0, 'step': None, 'decay': decay}


def _settings(
    scene: str,
    data: dict[str, Any],
    model: dict[str, Any],
    trainer: dict[str, Any],
    seed: int,
) -> dict[str, Any]:
    """Put the parts of a run's settings together."""
    return {
        'data': {'class_path': f'{_DATAMODULES}.{SCENES[scene]}', 'init_args': data},
        'model': model,
        'trainer': trainer,
        'seed_everything': seed,
    }
