# Copyright (c) torchgeo_ekgnet contributors.
# Licensed under the MIT License.

"""The command line: torchgeo's own with this package imported, and our commands.

``fit``, ``validate``, ``test`` and ``predict`` are what torchgeo's command runs. Since
the package is imported first, short names of its classes and the names of its models
resolve, and ``--config NAME`` finds a configuration that ships with the package. Every
other command belongs to the subpackage that does the work and is imported when it is
called.

Nothing is imported here that takes long: help and version answer at once.
"""

import _thread
import importlib
import io
import locale
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any, Self

from ._files import WINDOWS
from ._reading import raised_here
from ._runs import RUN_NAME
from ._terminal import in_one_line, quiet
from ._threads import choose_threads, wait_briefly
from ._wording import shortened
from .commands import COMMANDS, DEBUG, answer, resolve_config
from .stages import complete_arguments, configurations

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells give it: 128 and the signal's number."""

SIGNALS = (
    *(signal.SIGINT, signal.SIGTERM),
    *([signal.SIGHUP] if hasattr(signal, 'SIGHUP') else []),
)
"""What ends the process in order: Ctrl-C, being told to, and a terminal that is closed."""

USAGE = 2
"""Exit status after arguments or configurations that are not accepted."""

_LINE = 600
"""Most characters of an error that others raise."""

_LATER = 0.1
"""Seconds after which a signal is raised again."""

_PATIENCE = 10.0
"""Seconds that what a signal leads to has before another signal interrupts it."""

_WORDLESS = {'MemoryError': 'the machine has not enough free memory'}
"""Words for errors that are raised without any."""


def resolve_args(args: Sequence[str]) -> list[str]:
    """Replace names of shipped configurations by their paths, and ``=~`` by the home.

    Shells leave ``--data.root=~/scenes`` as it is.
    """
    resolved: list[str] = []
    args = [_at_home(arg) for arg in args]
    for index, arg in enumerate(args):
        if index and args[index - 1] in ('--config', '-c'):
            resolved.append(resolve_config(arg))
        elif arg.startswith('--config='):
            resolved.append('--config=' + resolve_config(arg.split('=', 1)[1]))
        else:
            resolved.append(arg)
    return resolved


def _at_home(arg: str) -> str:
    """Expand ``~`` behind the equals sign of an option."""
    name, equals, value = arg.partition('=')
    if not name.startswith('-') or not value.startswith('~'):
        return arg
    return name + equals + os.path.expanduser(value)


@quiet()
def run(args: Sequence[str]) -> None:
    """Run a command; errors are raised as they are.

    Args:
        args: Command and options, without the name of the program.

    Raises:
        SystemExit: If the command is unknown, or after help.
    """
    text = answer(args)
    if text is not None:
        sys.stdout.write(text)
        return
    _check_working_folder()
    name, rest = args[0], args[1:]
    # Before torch is loaded, which reads these settings then.
    wait_briefly()
    choose_threads(default='auto' if name == 'demo' else None)
    if sys.flags.optimize > 1:
        raise RuntimeError(
            'found python -OO, which strips the docstrings that libraries below this '
            'package build on; expected python or python -O'
        )
    from . import models  # noqa: F401  (registers the networks)
    from .layers import keep_freed_memory

    keep_freed_memory()
    if name in COMMANDS:
        command = COMMANDS[name]
        module = importlib.import_module(f'{__package__}.{command.module}')
        getattr(module, command.function)(list(rest))
        return
    resolved = resolve_args(args)
    from ._configurations import check_yaml
    from .cli import CommandLine

    process_args, name_of_run = sys.argv, RUN_NAME.set(None)
    try:
        for line in complete_arguments(resolved):
            for path in configurations(line):
                check_yaml(path)
            # Lightning warns about arguments that differ from those of the process.
            sys.argv = [process_args[0], *line]
            named = configurations(resolved)
            found = [path for path in configurations(line) if path not in named]
            CommandLine(found=found[0] if found else None)
    finally:
        # A command that was called from Python leaves nothing to the next one.
        sys.argv = process_args
        RUN_NAME.reset(name_of_run)


def _check_working_folder() -> None:
    """Refuse to start in a folder that is gone, which libraries do not call by name."""
    try:
        os.getcwd()
    except FileNotFoundError as error:
        raise FileNotFoundError(
            'found that the working folder has been deleted, expected one that exists: '
            'change to another folder (or to the new one of the same name: cd .)'
        ) from error


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        args: Command and options; errors are raised as they are. None for those of the
            process, which ends with one line and an exit status instead.

    Raises:
        SystemExit: At the end of the process, unless all went well.
    """
    if args is not None:
        run(args)
        return
    _open_streams()
    if WINDOWS and not sys.flags.utf8_mode and 'PYTHONUTF8' not in os.environ:
        raise SystemExit(_in_utf8())
    # Libraries read and write configurations and logs in the locale's letters, in which
    # names of classes would become others.
    with suppress(locale.Error):
        locale.setlocale(locale.LC_CTYPE, 'C.UTF-8')
    warnings.formatwarning = in_one_line
    status: int | str = 0
    with _Signals() as signals:
        try:
            run(sys.argv[1:])
            # A reader that has gone, such as head, shows here and not at the very end.
            _flush()
        except BaseException as error:
            if os.environ.get(DEBUG) and isinstance(error, Exception):
                raise
            status = _end(error, signals.status)
    if status:
        raise SystemExit(status)


def _in_utf8() -> int:
    """Run this process again as Python's UTF-8 mode, and give its exit status.

    On Windows libraries read and write files in the code page, whatever the locale, and
    only the environment of a new process can tell them otherwise.
    """
    # Ctrl-C reaches both processes; the new one puts things in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    again = [sys.executable, *sys.orig_argv[1:]]
    return subprocess.call(again, env={**os.environ, 'PYTHONUTF8': '1'})


def _flush() -> None:
    """Bring to stdout what waits; say that it was stdout if that fails."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        text = f'stdout could not be written to ({error.strerror})'
        raise OSError(error.errno, text) from error


def _give_up_stdout() -> None:
    """Write nothing more where nothing can be written, at the end of the process too."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_streams() -> None:
    """Give the process streams that can be written to, whatever is written."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is given next: not to a result, into which
            # libraries would write what they say to stderr.
            os.open(os.devnull, os.O_RDWR)
    for name in ('stdout', 'stderr'):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, 'w', encoding='utf-8'))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            # Names of classes and files may have letters that a terminal lacks: what is
            # done must not end in an error because it cannot be told.
            stream.reconfigure(errors='backslashreplace')


class _Signals:
    """Ends the process in order when a signal comes, unless somebody else listens.

    Attributes:
        status: Exit status after the signal that came; 0 while none has.
    """

    def __init__(self) -> None:
        """Find the signals that nobody listens to; nohup lets SIGHUP be ignored."""
        self.status = 0
        self._raised: BaseException | None = None
        self._since = 0.0
        self._listens = False
        self._process = os.getpid()
        found = {number: signal.getsignal(number) for number in SIGNALS}
        free = (signal.SIG_DFL, signal.default_int_handler)
        self._before = {n: handler for n, handler in found.items() if handler in free}
        self._hook = sys.unraisablehook

    def __enter__(self) -> Self:
        """Listen."""
        for number in self._before:
            signal.signal(number, self._stop)
        sys.unraisablehook = self._dropped
        self._listens = True
        return self

    def __exit__(self, *error: object) -> None:
        """Leave the signals as they were; after one the next ends what is left."""
        self._listens = False
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if self.status else handler)
        if not self.status:
            sys.unraisablehook = self._hook

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """Raise an error where the process is, but not soon into what it leads to."""
        now = time.monotonic()
        if self._leads_to(sys.exception()) and now - self._since < _PATIENCE:
            return
        if number != signal.SIGTERM and os.getpid() != self._process:
            # Workers of loaders, which share the terminal, are ended by this one.
            return
        self._since = now
        self.status = self.status or 128 + number
        ctrl_c = self.status == INTERRUPTED
        self._raised = KeyboardInterrupt() if ctrl_c else SystemExit(self.status)
        raise self._raised

    def _leads_to(self, error: BaseException | None) -> bool:
        """Tell whether an error is what a signal raised, or came of it."""
        while error is not None and error is not self._raised:
            error = error.__context__
        return error is not None

    def _dropped(self, unraisable: Any) -> None:
        """Raise again, later, what Python dropped, as it does in destructors.

        That of a loader waits for its workers after every epoch.
        """
        if not self.status:
            self._hook(unraisable)
        elif self._leads_to(unraisable.exc_value):
            # Not threading's, which waits until it runs: it would be interrupted, too.
            _thread.start_new_thread(self._raise_again, ())

    def _raise_again(self) -> None:
        """Raise the signal again, unless the command has ended."""
        time.sleep(_LATER)
        number = self.status - 128
        if self._listens and WINDOWS:
            signal.raise_signal(number)
        elif self._listens:
            # To the process: the main thread may wait for something.
            os.kill(self._process, number)


def _end(error: BaseException, signalled: int = 0) -> int | str:
    """Give an exit status, or one line for stderr whose status is 1.

    Args:
        error: What the command was ended by.
        signalled: Exit status after a signal that came. The error may not tell:
            Lightning ends its loops with a status of its own, 0.
    """
    _give_up_stdout()
    if not signalled and _chain(error, 'KeyboardInterrupt'):
        signalled = INTERRUPTED
    if signalled:
        ctrl_c = signalled == INTERRUPTED
        _say(f'torchgeo-ekgnet: {"interrupted" if ctrl_c else "terminated"}\n')
        return signalled
    # Lightning's tables end the process without a word when nobody reads them.
    if isinstance(error, BrokenPipeError) or (
        isinstance(error, SystemExit) and _chain(error, 'BrokenPipeError')
    ):
        return 'torchgeo-ekgnet: BrokenPipeError: stdout was closed before the end'
    if isinstance(error, SystemExit):
        return 0 if error.code is None else error.code
    usage = _chain(error, 'UsageError')
    # What the parser wraps says more: it was raised where something was wrong.
    own = _own_error(error) or usage
    shown = own or error
    text = ' '.join(str(shown).split())
    if own is None:
        text = shortened(text, _LINE - 4) or _WORDLESS.get(
            type(shown).__name__, 'no message'
        )
        if not isinstance(error, OSError):
            # Not ours: its words may need the place where it was raised.
            text += f' ({DEBUG}=1 shows where it was raised)'
    line = f'torchgeo-ekgnet: {type(shown).__name__}: {text}'
    if usage is None:
        return line
    _say(f'{line}\n')
    return USAGE


def _say(text: str) -> None:
    """Write to stderr, unless its terminal is closed."""
    with suppress(OSError):
        sys.stderr.write(text)


def _chain(error: BaseException | None, name: str) -> BaseException | None:
    """Find an error among an error's causes by the name of its class."""
    while error is not None and type(error).__name__ != name:
        error = error.__cause__ or error.__context__
    return error


def _own_error(error: BaseException | None) -> BaseException | None:
    """Find what this package raised on purpose in a chain of errors.

    The command line wraps errors of a constructor into its own, which list every value.
    """
    while error is not None and (
        type(error).__name__ == 'UsageError' or not raised_here(error)
    ):
        hidden = error.__suppress_context__
        error = error.__cause__ or (None if hidden else error.__context__)
    return error
