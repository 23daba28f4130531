"""What the exit status of a command says, and the error that ends a command with one."""

from __future__ import annotations

from enum import IntEnum

from core.domain.codes import ResultCode
from core.domain.errors import KennelError

#: Result codes up to here are success.
_LAST_SUCCESS = 99


class Exit(IntEnum):
    """Exit statuses; documented in docs/cli.md and at the end of `kennel --help`."""

    OK = 0
    #: The job closed with a failure; `doctor`: something Kennel cannot do without is missing.
    FAILED = 1
    #: The command line, or what it names on this machine, makes no sense.
    USAGE = 2
    #: The job was cancelled.
    CANCELLED = 3
    #: Server or database cannot be reached, or is not there.
    UNREACHABLE = 4
    #: The server refused: token, role, or a request it does not accept.
    REFUSED = 5
    #: `--timeout` is over; the job goes on.
    TIMEOUT = 6
    #: A defect of Kennel.
    DEFECT = 70
    #: The server does not take this worker (EX_NOPERM of sysexits.h).
    NOT_ENROLLED = 77
    #: A setting cannot be used (EX_CONFIG of sysexits.h): starting again is of no use.
    CONFIGURATION = 78
    #: Ended by Ctrl-C before there was a result.
    INTERRUPTED = 130


MEANINGS: dict[Exit, str] = {
    Exit.OK: "done; the job closed with success (result codes 0 to 99)",
    Exit.FAILED: "the job closed with a failure; `kennel doctor`: something needed is missing",
    Exit.USAGE: "the command line, or what it names on this machine, cannot be used",
    Exit.CANCELLED: "the job was cancelled",
    Exit.UNREACHABLE: "the server or the database cannot be reached",
    Exit.REFUSED: "the server refused: the token, its role, or the request",
    Exit.TIMEOUT: "`--timeout` is over; the job goes on",
    Exit.DEFECT: "a defect of Kennel",
    Exit.NOT_ENROLLED: "the server does not take this worker",
    Exit.CONFIGURATION: "a setting cannot be used, or the database's schema does not fit",
    Exit.INTERRUPTED: "ended by Ctrl-C",
}


class CommandError(KennelError):
    """Ends a command: one clear sentence for standard error, and the exit status."""

    def __init__(self, message: str, code: Exit = Exit.USAGE) -> None:
        super().__init__(message)
        self.code = code


def exit_of_result(result_code: int) -> Exit:
    """Return the exit status for a job that closed with *result_code*."""
    if result_code == ResultCode.CANCELLED:
        return Exit.CANCELLED
    return Exit.OK if result_code <= _LAST_SUCCESS else Exit.FAILED
