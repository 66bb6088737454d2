# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""Lightning's command line as torchgeo sets it up, with errors of one line."""

import inspect
import os
import sys
import traceback
import warnings
from argparse import ArgumentError, RawDescriptionHelpFormatter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeGuard

import rasterio
import torch
import torchgeo.trainers  # noqa: F401 (names of its classes may be short, too)
from jsonargparse import DefaultHelpFormatter, set_parsing_settings
from lightning.pytorch import Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info
from torchgeo.datamodules import BaseDataModule

from . import callbacks as _callbacks
from . import datamodules as _datamodules
from . import datasets as _datasets
from . import samplers as _samplers
from . import tasks as _tasks
from . import transforms as _transforms
from ._compat import BaseTask
from ._configurations import UsageError, check_classes, only_known
from ._files import replaced
from ._messages import essence, imported
from ._reading import FileError, raised_here
from ._wording import shortened
from .checkpoint import read_checkpoint
from .checkpoint.arguments import arguments_of, keep_asked
from .commands import TORCHGEO_COMMANDS, shipped_configs
from .models import network_class

__all__ = ('CommandLine', 'Parser', 'UsageError', 'built_data', 'usage_errors')

_GDAL = {
    'GDAL_DISABLE_READDIR_ON_OPEN': 'EMPTY_DIR',
    'AWS_NO_SIGN_REQUEST': 'YES',
    'GDAL_MAX_RAW_BLOCK_CACHE_SIZE': '200000000',
    'GDAL_SWATH_SIZE': '200000000',
    'VSI_CURL_CACHE_SIZE': '200000000',
}
"""What torchgeo's command sets for GDAL."""

_CLASSES = [
    name
    for module in (_callbacks, _datamodules, _datasets, _samplers, _tasks, _transforms)
    for name in module.__all__
]
"""Names that may be short, as those of all classes that are imported are found; for who
mistypes one."""

# jsonargparse 5 does so: the options of a dataset or of a model hold values of any type,
# and would otherwise build whatever class they name, subprocesses included.
set_parsing_settings(instantiate_subclass_spec_in_any=False)

_FIRST = f"""{{summary}}

mostly used, before all that there is:
  --config FILE_OR_NAME  a file, or {', '.join(list(shipped_configs())[:4])},
                         {', '.join(list(shipped_configs())[4:])}
  --name NAME            names the run of fit; the others take the newest run of it
  --ckpt_path FILE       local checkpoint to go on from (fit), to score or to map with
  --data.root DIR        folder of the scene's files; your own are named by --data.cube
                         and --data.labels
  --data.patch_size N    rows and columns of a patch, odd
  --data.split CLASS     such as DisjointSplit; --data.split.seed 1 is one of its options
  --model.model NAME     network; --model.lr 0.001 is an option of the task
  --trainer.max_epochs N
  --print_config         show what would run
  --data.help CLASS, --model.help CLASS
                         what a class takes, such as CustomSceneDataModule"""
"""What the help of a command begins with, where Lightning's has fifty lines of usage."""

_RESTORES = ('checkpoint_connector.py', 'loops/progress.py', 'torch/optim/')
"""Where libraries take up, or first use, the state of a training from a checkpoint."""

_POSITIVE = ('accumulate_grad_batches', 'check_val_every_n_epoch', 'val_check_interval')
"""Options of the trainer by which Lightning divides."""

_WORK = {
    'fit': ('max_epochs', 'max_steps', 'limit_train_batches'),
    'validate': ('limit_val_batches',),
    'test': ('limit_test_batches',),
    'predict': ('limit_predict_batches',),
}
"""Options of the trainer with which 0 leaves a command nothing to do."""

_CHOSEN_BY_LIGHTNING = 'hpc'
"""Value of ``--ckpt_path`` that is no file; ``best`` and ``last`` mean something only in
the process that trained."""


class _Help(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Leaves the lines of descriptions as they are."""


class Parser(LightningArgumentParser):
    """A parser that raises instead of printing its usage and ending the process."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Set it up as torchgeo's."""
        settings = {'exit_on_error': False, 'formatter_class': _Help}
        super().__init__(*args, **{**settings, **kwargs})

    def dump(self, cfg: Any, *args: Any, **kwargs: Any) -> str:
        """Write what was parsed; to check it again would take as long as to parse it."""
        if not args:
            kwargs = {'skip_validation': True, **kwargs}
        # The parser calls an option old that Lightning gives.
        with warnings.catch_warnings(action='ignore', category=DeprecationWarning):
            text: str = super().dump(cfg, *args, **kwargs)
        return text

    def save(self, cfg: Any, path: Any, *args: Any, **kwargs: Any) -> None:
        """Write a configuration as a whole or not at all."""
        if kwargs.get('multifile', True) or not kwargs.get('overwrite'):
            super().save(cfg, path, *args, **kwargs)
            return
        with replaced(path) as part, warnings.catch_warnings():
            warnings.simplefilter('ignore', DeprecationWarning)
            super().save(cfg, part, *args, **{'skip_validation': True, **kwargs})


@contextmanager
def usage_errors() -> Iterator[None]:
    """Raise what a :class:`Parser` refuses as :class:`UsageError`, in one line."""
    try:
        yield
    except ArgumentError as error:
        raise UsageError(essence(str(error), _CLASSES)) from error


def built_data(
    settings: object, base: type[BaseDataModule], root: str | None = None
) -> Any:
    """Build the data module that a configuration names under ``data``.

    Args:
        settings: What the configuration holds there.
        base: Class that it must be of.
        root: Folder of the scene's files; None: as the configuration says.

    Raises:
        UsageError: If an argument is not accepted.
    """
    parser = Parser()
    parser.add_lightning_class_args(base, 'data', subclass_mode=True)
    with usage_errors():
        config = parser.parse_object({'data': settings})
    if root is not None:
        config.data.init_args.root = root
    # Its name before jsonargparse 4.49.
    instantiate = getattr(parser, 'instantiate', None) or parser.instantiate_classes
    return instantiate(config).data


def _briefly(error: BaseException) -> str:
    """Say in a few words what a library refuses."""
    return shortened(essence(str(error), _CLASSES))


@contextmanager
def _gdal_settings() -> Iterator[None]:
    """Set for GDAL what torchgeo's command sets, and set it back."""
    before = {name: os.environ.get(name) for name in _GDAL}
    # Rasterio keeps what it finds in the environment when its first Env begins.
    with rasterio.Env(**_GDAL):
        os.environ.update(_GDAL)  # for other processes
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


class CommandLine(LightningCLI):
    """What ``torchgeo`` runs, with errors that can be caught.

    Args:
        found: Configuration among the arguments that no user named; it may name classes
            only that a training needs.
        **kwargs: Arguments of ``LightningCLI`` that differ from torchgeo's.

    Raises:
        UsageError: If an argument or a configuration is not accepted.
        FileError: If a configuration that was found names other classes.
    """

    def __init__(self, found: str | None = None, **kwargs: Any) -> None:
        """Parse, build and run."""
        self._found = found
        self._saved: Mapping[str, Any] = {}
        given = kwargs.get('args')
        self._given = sys.argv[1:] if given is None else given
        options: dict[str, Any] = {
            'model_class': BaseTask,
            'datamodule_class': BaseDataModule,
            'subclass_mode_model': True,
            'subclass_mode_data': True,
            'seed_everything_default': 0,
            'save_config_kwargs': {'overwrite': True},
            'parser_class': Parser,
            # Also with python -m, whose own name is that of a file.
            'parser_kwargs': {'prog': 'torchgeo-ekgnet'},
        }
        with _gdal_settings():
            super().__init__(**{**options, **kwargs})

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Begin the help with what is mostly used."""
        command = self._first()
        if command in TORCHGEO_COMMANDS:
            parser.usage = f'torchgeo-ekgnet {command} --config FILE_OR_NAME [OPTIONS]'
            parser.description = _FIRST.format(summary=TORCHGEO_COMMANDS[command])

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """List the commands; one that is given first needs no parsers of the others."""
        known = LightningCLI.subcommands()
        first = self._first()
        return {first: known[first]} if first in known else known

    def _first(self) -> str:
        """Give the argument that comes first."""
        given = self._given
        return str(given[0]) if isinstance(given, list) and given else ''

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, and look at the checkpoint before Lightning opens it."""
        found, of_process = self._found, sys.argv
        if args is not None:
            # Lightning warns of those of the process beside others.
            sys.argv = of_process[:1]
        try:
            with usage_errors(), nullcontext() if found is None else only_known(found):
                super().parse_arguments(parser, args)
        finally:
            sys.argv = of_process
        if found is not None:
            check_classes(found, self.config)
        command = self.config.get('subcommand')
        chosen = self.config[command] if command else self.config
        _check_numbers(chosen, command or 'fit')
        path = chosen.get('ckpt_path') if command else None
        if path not in (None, _CHOSEN_BY_LIGHTNING):
            self._saved = read_checkpoint(path).get('hyper_parameters') or {}

    def _run_subcommand(self, subcommand: str) -> None:
        """Run a stage; a checkpoint whose state of the training breaks it is named."""
        path = self.config[subcommand].get('ckpt_path')
        try:
            super()._run_subcommand(subcommand)
        except Exception as error:
            if path is None or not _breaks_while_restoring(error):
                raise
            raise FileError(
                f'{path}: the state of the training that it holds cannot be taken up '
                f'({type(error).__name__}: {_briefly(error)}), expected '
                'what fit wrote with this configuration; --model.weights starts from '
                'its weights'
            ) from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer, on a device and in a precision that suit."""
        precision = self._precision()
        if precision is not None:
            kwargs = {'precision': precision, **kwargs}
        trainer: Any = self._get(self.config_init, 'trainer', default={})
        asked = trainer.get('accelerator') not in (None, 'auto')
        if not asked and torch.backends.mps.is_available():
            # Lightning would choose Apple's MPS, on which nothing was tested.
            kwargs = {'accelerator': 'cpu', **kwargs}
        try:
            return super().instantiate_trainer(**kwargs)
        except Exception as error:
            if raised_here(error):
                raise
            given = ', '.join(
                f'{name} {trainer[name]}'
                for name in ('accelerator', 'devices', 'precision', 'strategy')
                if trainer.get(name) is not None
            )
            gpus = torch.cuda.device_count()
            here = (
                f'auto, cpu or gpu (has {gpus})'
                if gpus
                else 'auto or cpu (no GPU here)'
            )
            raise UsageError(
                f'--trainer: found {given}, expected accelerator {here}, devices auto or '
                'a number from 1 on, and a strategy and precision that go with them '
                f'({_briefly(error)})'
            ) from error

    def _precision(self) -> str | None:
        """Choose a precision where none is asked for; None leaves Lightning's.

        The configuration is left alone: its run may be continued on another device.
        """
        trainer: Any = self._get(self.config_init, 'trainer', default={})
        if trainer.get('precision') is not None or trainer.get('plugins'):
            return None
        if trainer.get('accelerator') not in (None, 'auto', 'gpu', 'cuda'):
            return None
        # Older cards emulate the type, which is slow.
        if not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] < 8:
            return None
        model: Any = self._get(self.config_init, 'model')
        name = getattr(model, 'hparams', {}).get('model')
        network = network_class(name) if isinstance(name, str) else None
        if network is None or name not in network.bfloat16_names:
            return None
        rank_zero_info(
            f'precision: bf16-mixed, in which {name} loses nothing and this GPU is '
            'fastest (--trainer.precision 32-true for float32)'
        )
        return 'bf16-mixed'

    def _parse_ckpt_path(self) -> None:
        """Take the hyperparameters of the checkpoint; name it if they are odd.

        What only says how the network runs stays as it was asked for.
        """
        command = self.config.get('subcommand')
        options: Any = self.config[command] if command else {}
        path, model = options.get('ckpt_path'), options.get('model')
        asked = arguments_of(model)
        try:
            if self._saved and '_class_path' not in self._saved:
                # A training in Python leaves them so: they are of the class asked for.
                saved = {'class_path': model.class_path, 'dict_kwargs': self._saved}
                self.config = self.parser.parse_object(
                    {command: {'model': saved}}, self.config
                )
            else:
                super()._parse_ckpt_path()
            if command is not None:
                keep_asked(self.config[command], asked)
                _check_names(self.config[command].get('model'))
        except (Exception, SystemExit) as error:
            raise FileError(
                f'{path}: its hyper_parameters are not accepted '
                f'({_briefly(error)}), expected those of the class that --model names'
            ) from error


def _breaks_while_restoring(error: BaseException) -> bool:
    """Tell whether a checkpoint's state broke who took it up, without a word of ours."""
    files = [
        Path(frame.f_code.co_filename).as_posix()
        for frame, _ in traceback.walk_tb(error.__traceback__)
    ]
    return not raised_here(error) and any(
        part in file for file in files for part in _RESTORES
    )


def _check_numbers(config: Any, command: str) -> None:
    """Refuse numbers by which Lightning divides, or with which nothing is done."""
    seed = config.get('seed_everything')
    if _is_number(seed) and not 0 <= seed < 2**32:
        raise UsageError(
            f'--seed_everything: found {seed}, expected a number from 0 to {2**32 - 1}'
        )
    trainer = config.get('trainer') or {}
    for name in _POSITIVE:
        if _is_number(value := trainer.get(name)) and value <= 0:
            raise UsageError(f'--trainer.{name}: found {value}, expected more than 0')
    for name in _WORK[command]:
        if _is_number(value := trainer.get(name)) and value == 0:
            raise UsageError(
                f'--trainer.{name}: found {value}, expected more than 0: {command} would '
                'do nothing'
            )
    devices, most = trainer.get('devices'), max(8, os.cpu_count() or 1)
    on_cpu = trainer.get('accelerator') == 'cpu' or not torch.cuda.is_available()
    if on_cpu and str(devices).isdigit() and int(str(devices)) > most:
        raise UsageError(
            f'--trainer.devices: found {devices}, expected at most {most}: on a CPU each '
            f'is a process of its own, and this machine has {os.cpu_count()} cores'
        )
    clip = trainer.get('gradient_clip_val')
    if _is_number(clip) and clip < 0:
        raise UsageError(
            f'--trainer.gradient_clip_val: found {clip:g}, expected 0 or more'
        )


def _is_number(value: Any) -> TypeGuard[float]:
    """Tell whether a value is a number; True is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_names(model: Any) -> None:
    """Refuse arguments that the class of a model does not take."""
    found = imported(str(getattr(model, 'class_path', '')))
    extra = sorted(getattr(model, 'dict_kwargs', None) or {})
    if not extra or not inspect.isclass(found):
        return
    kinds = {p.kind for p in inspect.signature(found).parameters.values()}
    if inspect.Parameter.VAR_KEYWORD not in kinds:
        raise ValueError(f'{found.__name__} takes no {", ".join(extra)}')
