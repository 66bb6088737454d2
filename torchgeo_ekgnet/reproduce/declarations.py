# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The paper's tables and figures, and ablations that it lacks, as data.

Nothing here runs anything: an :class:`Experiment` says which systems are trained on
which scene under which split and patch size, :func:`run_settings` turns one row and
one seed into the settings of one run, and the repeat engine runs them.

Sources: arXiv 2504.13045, tables 1-9 and figures 5-8. Where the paper contradicts
itself (patch size 11, 15 or 17), the setting is the one that its numbers obey.
"""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from typing import Any, Literal

from ..callbacks import TemperatureAnnealing
from ..models.dgcnet import PRUNING_END
from .classical import CLASSICAL_NAMES

_PACKAGE = 'torchgeo_ekgnet'
_DATAMODULES = f'{_PACKAGE}.datamodules'
_SPLITS = f'{_PACKAGE}.datasets.splits'
_TASKS = f'{_PACKAGE}.tasks'

METRICS = ('OA', 'AA', 'Kappa')
FIRST_SEED = 1331
"""Seed of the first run; the released code numbers its runs from here."""

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
Kind = Literal['table', 'figure', 'ablation']


_EXPERT_USE = {'class_path': f'{_PACKAGE}.callbacks.expert_use.ExpertUse'}


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
        kind: Table of the paper, figure of the paper or ablation of ours.
        scene: Scene that the paper uses, or the one that an ablation starts from.
        variable: What differs between rows, as in the published results.
        rows: The lines, in the paper's order.
        number: Number of the published table, None if there is none.
        maps: True if a classification map of every row is drawn.
    """

    key: str
    title: str
    kind: Kind
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
    """

    epochs: int
    batch_size: int = 80
    lr: float = 5e-4


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


_SYSTEMS = (
    Row('ssrn', 'SSRN', 'ssrn'),
    Row('cnn3d', '3D-CNN', 'cnn3d'),
    Row('se_densenet3d', '3D-SE-DenseNet', 'se_densenet3d'),
    Row('spectralformer', 'SpectralFormer', 'spectralformer'),
    Row('lgcnet', 'LGCNet', 'lgcnet'),
    Row('dgcnet', 'DGCNet', 'dgcnet'),
    Row('ekgnet_base', 'EKGNet-base', 'ekgnet_base'),
    Row('rbf_svm', 'RBF-SVM', 'rbf_svm'),
    Row('random_forest', 'Random forest', 'random_forest'),
    Row('densenet3d', '3D-DenseNet', 'densenet3d', extra=True),
    Row('dacnet', 'DACNet', 'dacnet', temperature='fixed', extra=True),
    Row(
        'spectralformer_pixel',
        'SpectralFormer (pixel)',
        'spectralformer_pixel',
        extra=True,
    ),
    Row(
        'ekgnet_base_reference',
        'EKGNet-base (released code)',
        'ekgnet_base_reference',
        temperature='learnt',
        extra=True,
    ),
)


def _ratios(patch_size: int) -> tuple[Row, ...]:
    """Rows of tables 1-3: the share of training pixels."""
    return tuple(
        Row(f'{n}:1:{9 - n}', f'{n}:1:{9 - n}', patch_size=patch_size, train=n / 10)
        for n in range(2, 7)
    )


def _patches(train: float) -> tuple[Row, ...]:
    """Rows of tables 4-6: the patch size."""
    return tuple(
        Row(str(size), f'{size} x {size}', patch_size=size, train=train)
        for size in (7, 9, 11, 13, 15, 17)
    )


def _for_pavia(row: Row) -> Row:
    """A row of table 8 as table 9 has it."""
    options = row.options
    if row.model == 'spectralformer':
        # Its authors group 7 neighbouring bands of this sensor, 3 of AVIRIS.
        options = {'near_bands': 7}
    if row.model in ('densenet3d', 'se_densenet3d'):
        # Its authors' network for this scene does not subsample between blocks.
        options = {'subsample': False}
    return replace(row, train=0.5, options=options)


_EXPERIMENTS = (
    Experiment(
        'table1',
        'Table 1: training ratios',
        'table',
        'indian_pines',
        'train_val_test',
        _ratios(11),
        number=1,
    ),
    Experiment(
        'table2',
        'Table 2: training ratios',
        'table',
        'pavia_university',
        'train_val_test',
        _ratios(11),
        number=2,
    ),
    Experiment(
        'table3',
        'Table 3: training ratios',
        'table',
        'ksc',
        'train_val_test',
        _ratios(11),
        number=3,
    ),
    Experiment(
        'table4',
        'Table 4: patch sizes',
        'table',
        'indian_pines',
        'patch_size',
        _patches(0.6),
        number=4,
    ),
    Experiment(
        'table5',
        'Table 5: patch sizes',
        'table',
        'pavia_university',
        'patch_size',
        _patches(0.5),
        number=5,
    ),
    Experiment(
        'table6',
        'Table 6: patch sizes',
        'table',
        'ksc',
        'patch_size',
        _patches(0.5),
        number=6,
    ),
    Experiment(
        'table7',
        'Table 7: EKGNet-base and EKGNet-large',
        'table',
        'indian_pines',
        'model',
        (
            Row('ekgnet_base', 'EKGNet-base', 'ekgnet_base'),
            Row('ekgnet_large', 'EKGNet-large', 'ekgnet_large'),
        ),
        number=7,
    ),
    Experiment(
        'table8',
        'Table 8: all systems',
        'table',
        'indian_pines',
        'model',
        _SYSTEMS,
        number=8,
    ),
    Experiment(
        'table9',
        'Table 9: all systems',
        'table',
        'pavia_university',
        'model',
        tuple(map(_for_pavia, _SYSTEMS)),
        number=9,
    ),
    Experiment(
        'figure5',
        'Figure 5: false colour and labels',
        'figure',
        'indian_pines',
        'scene',
        (),
    ),
    Experiment(
        'figure6',
        'Figure 6: false colour and labels',
        'figure',
        'pavia_university',
        'scene',
        (),
    ),
    Experiment(
        'figure7',
        'Figure 7: maps of all systems',
        'figure',
        'indian_pines',
        'model',
        _SYSTEMS,
        maps=True,
    ),
    Experiment(
        'figure8',
        'Figure 8: training curves of EKGNet',
        'figure',
        'indian_pines',
        'model',
        (Row('ekgnet_base', 'EKGNet-base', 'ekgnet_base'),),
    ),
    Experiment(
        'experts',
        'Ablation: number of experts K',
        'ablation',
        'indian_pines',
        'num_experts',
        tuple(
            Row(str(k), f'K = {k}', options={'num_experts': k}) for k in (1, 2, 4, 8)
        ),
    ),
    Experiment(
        'temperature',
        'Ablation: temperature',
        'ablation',
        'indian_pines',
        'temperature',
        (
            Row('anneal', 'annealed from 34 to 1', temperature='anneal'),
            Row('learnt', 'learnt from 34', temperature='learnt'),
            Row('fixed', 'fixed at 34', temperature='fixed'),
        ),
    ),
    Experiment(
        'mapping',
        'Ablation: depth of the mapping network',
        'ablation',
        'indian_pines',
        'num_mapping_blocks',
        (
            *(
                Row(
                    str(n),
                    f'{n} blocks' if n > 1 else '1 block',
                    options={'num_mapping_blocks': n},
                )
                for n in (1, 2, 3)
            ),
            # Annealed and drawn as the rows above; its temperature is not learnt.
            Row(
                'dacnet',
                'plain attention (DACNet)',
                'dacnet',
                options={'expert_init': 'trunc_normal'},
            ),
        ),
    ),
    Experiment(
        'static',
        'Ablation: dynamic experts against their static twin',
        'ablation',
        'indian_pines',
        'conv_layer',
        (
            Row('dynamic', 'dynamic, K = 4'),
            Row('static', 'static twin', options={'conv_layer': 'conv3d'}),
        ),
    ),
    Experiment(
        'expert_use',
        'Ablation: use of the experts',
        'ablation',
        'indian_pines',
        'model',
        (
            Row('ekgnet_base', 'EKGNet-base'),
            Row('learnt', 'EKGNet-base, temperature learnt', temperature='learnt'),
        ),
    ),
    Experiment(
        'protocols',
        'Ablation: random against disjoint, the same training pixels per class',
        'ablation',
        'indian_pines',
        'split',
        tuple(
            Row(f'{model}_{name}', f'{label}, {name}', model, split=f'matched_{name}')
            for model, label in (('ekgnet_tiny', 'EKGNet-tiny'), ('rbf_svm', 'RBF-SVM'))
            for name in ('random', 'disjoint')
        ),
    ),
)

EXPERIMENTS = {experiment.key: experiment for experiment in _EXPERIMENTS}
"""All tables, figures and ablations by their name on the command line."""

BUDGETS = {
    budget.name: budget
    for budget in (
        Budget(
            'paper',
            seeds=10,
            # SpectralFormer's authors train it for 300 epochs; 80 leave it rising.
            recipes={
                name: Recipe(300, batch_size=64)
                for name in ('spectralformer', 'spectralformer_pixel')
            },
            default=Recipe(80),
            note="The paper's effort: 80 epochs, batches of 80 patches, Adam at 5e-4.",
        ),
        Budget(
            'small',
            seeds=3,
            # As many epochs as each needs on Indian Pines: EKGNet and its kin learn
            # slowly, SSRN and SE-DenseNet fast, a step of 3D-CNN costs next to nothing.
            recipes={
                'ssrn': Recipe(10, batch_size=16, lr=1e-3),
                'cnn3d': Recipe(40, batch_size=16, lr=1e-3),
                'densenet3d': Recipe(8, batch_size=16, lr=1e-3),
                'se_densenet3d': Recipe(8, batch_size=16, lr=1e-3),
                'spectralformer': Recipe(30, batch_size=32, lr=1e-3),
                'spectralformer_pixel': Recipe(30, batch_size=32, lr=1e-3),
            },
            default=Recipe(24, batch_size=16, lr=1e-3),
            patch_limit=7,
            train_limit=0.1,
            val_limit=0.03,
            test_limit=0.3,
            # By the same factor: the last step of 3, from 4 to 1, costs accuracy where
            # few epochs are left to recover.
            annealing=0.5,
            note=(
                'A reduced version for a laptop: 10 % training pixels, few epochs of '
                'small batches, patches of 7 x 7, where the paper does not vary them.'
            ),
        ),
    )
}
"""Budgets by their name on the command line."""


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
    recipe = budget.recipe(row.model)
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
    callbacks: list[dict[str, Any]] = []
    start_epoch = 0
    if row.model.startswith(('ekgnet', 'dacnet')):
        callbacks.append(_EXPERT_USE)
        if experiment.key == 'expert_use':
            callbacks[0] = {**_EXPERT_USE, 'init_args': {'measure_worth': True}}
        arguments = _annealing_arguments(row.temperature, epochs, budget.annealing)
        if arguments:
            callbacks.append(
                {
                    'class_path': f'{_PACKAGE}.callbacks.TemperatureAnnealing',
                    'init_args': arguments,
                }
            )
            start_epoch = TemperatureAnnealing(**arguments).epochs
    if row.model == 'dgcnet':
        # Without it nothing is pruned, as in the released port.
        callbacks.append(
            {'class_path': f'{_PACKAGE}.callbacks.pruning.PruningSchedule'}
        )
        start_epoch = math.ceil(PRUNING_END * epochs)
    settings = _settings(
        scene,
        data,
        {
            'class_path': f'{_TASKS}.HyperspectralClassificationTask',
            'init_args': {
                'model': row.model,
                'lr': recipe.lr,
                'lr_schedule': 'cosine',
                'model_options': dict(row.options),
            },
        },
        {'max_epochs': epochs, 'callbacks': callbacks},
        seed,
    )
    # Weights in the middle of a schedule are not those of the system in the table.
    settings['start_epoch'] = max(0, min(start_epoch, epochs - 1))
    return settings


def _annealing_arguments(
    temperature: Temperature, epochs: int, share: float | None
) -> dict[str, Any]:
    """Arguments of the callback ``TemperatureAnnealing``.

    Args:
        temperature: How the temperature is treated.
        epochs: Epochs of the run.
        share: Share of them that annealing lasts; None: the paper's steps.

    Returns:
        The arguments; none if the callback is not wanted.
    """
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
