"""How a command runs: settings read, a loop made, whatever goes wrong told in one sentence.

The edge of the command line. A traceback is shown only where KENNEL_LOG__LEVEL is `debug`; a
defect says how to get it.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cli.exits import CommandError, Exit
from cli.output import ReaderGone, note
from core.domain.errors import KennelError, SchemaMismatch, SettingError

if TYPE_CHECKING:
    import asyncio

    from core.runtime.settings import LogSettings, Settings

Result = TypeVar("Result")


def read_settings(*, data_dir: Path | None = None, **groups: Any) -> Settings:
    """Return the settings of this command: the environment, and what its options say."""
    from core.runtime.settings import load_settings

    return load_settings(data_dir=data_dir, **groups)


def run(main: Coroutine[Any, Any, Result], *, on_uvloop: bool = False) -> Result:
    """Run *main* to its end; on_uvloop for what serves, the stock loop for what spawns."""
    import asyncio

    from core.runtime.settings import LogSettings

    _log_as(LogSettings(level="error"))
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    if on_uvloop:
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(main)


def be_quiet(settings: Settings) -> None:
    """Log errors only, unless the settings say otherwise: the command itself tells what it does."""
    log = settings.log
    if "level" not in log.model_fields_set:
        log = log.model_copy(update={"level": "error"})
    _log_as(log, settings.secrets())


def _log_as(log: LogSettings, secrets: Iterable[str] = ()) -> None:
    from core.runtime.logs import configure_logs

    # Before anything logs: unconfigured, lines would go to standard output, among the answers.
    configure_logs(log, "cli", secrets=secrets)


def ending(error: BaseException) -> tuple[Exit, str] | None:
    """Return the exit status and the sentence for *error*; None: it is a defect."""
    if isinstance(error, BaseExceptionGroup):
        # A task group's errors: the first that can be explained stands for all.
        return next(filter(None, map(ending, error.exceptions)), None)
    if isinstance(error, CommandError):
        return error.code, str(error)
    if isinstance(error, SettingError | SchemaMismatch):
        return Exit.CONFIGURATION, str(error)
    if isinstance(error, KeyboardInterrupt):
        return Exit.INTERRUPTED, "interrupted"
    if isinstance(error, KennelError):
        # A refused worker says with which status systemd is to leave it alone.
        own = getattr(error, "exit_code", Exit.UNREACHABLE)
        return Exit(own) if own in set(Exit) else Exit.UNREACHABLE, str(error)
    return None


def guarded(main: Callable[[], object]) -> int:
    """Run the command line; return its exit status."""
    try:
        main()
    except SystemExit as leave:
        return _status(leave.code)
    except ReaderGone:
        # What is still in the buffer must not fail at the interpreter's end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except BaseException as error:  # noqa: BLE001 - the edge: nothing may end in a traceback
        return _tell(error)
    return Exit.OK


def _status(code: object) -> int:
    if isinstance(code, int):
        return code
    return Exit.OK if code is None else Exit.FAILED


def _tell(error: BaseException) -> int:
    found = ending(error)
    if _wants_traceback():
        traceback.print_exception(error, file=sys.stderr)
    if found is None:
        note(
            f"kennel: a defect: {type(error).__name__}: {error} "
            "(KENNEL_LOG__LEVEL=debug shows where)"
        )
        return Exit.DEFECT
    code, sentence = found
    note(f"kennel: {sentence}")
    return code


def _wants_traceback() -> bool:
    try:
        return read_settings().log.level == "debug"
    except KennelError:
        return False
