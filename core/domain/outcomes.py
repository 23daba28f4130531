"""How attempts and tasks end: a closed set of outcomes, a closed set of reasons.

The reason decides, all of it here as data: the result code a task closes with, whether the task
is tried again and how that is counted, and whether the worker is to blame.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from core.domain.codes import ResultCode


class Outcome(StrEnum):
    """How an attempt or a task ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"


class Reason(StrEnum):
    """Why an attempt did not succeed. Sent by workers; an unknown one is refused."""

    # the repository's or the user's doing
    SCM_AUTH = "scm_auth"
    SCM_NOT_FOUND = "scm_not_found"
    SCM_UNTRUSTED = "scm_untrusted"
    SCM_FORBIDDEN = "scm_forbidden"
    SCM_REFUSED = "scm_refused"
    CONFIG_REFUSED = "config_refused"
    PARAMETERS_REFUSED = "parameters_refused"
    UNSUPPORTED = "unsupported"
    # the engine's doing
    ENGINE_FAILED = "engine_failed"
    ENGINE_TIMEOUT = "engine_timeout"
    ENGINE_SILENT = "engine_silent"
    OUT_OF_MEMORY = "out_of_memory"
    OUTPUT_LIMIT = "output_limit"
    REPORT_UNREADABLE = "report_unreadable"
    NO_COVERAGE = "no_coverage"
    # the worker's or the network's doing: tried again
    SCM_UNREACHABLE = "scm_unreachable"
    CHECKOUT_FAILED = "checkout_failed"
    UPLOAD_FAILED = "upload_failed"
    WORKER_INTERRUPTED = "worker_interrupted"
    #: An orderly stop: nobody's fault, not counted.
    HANDED_BACK = "handed_back"
    WORKER_ERROR = "worker_error"
    # the server's doing: never sent by a worker
    WORKER_LOST = "worker_lost"
    CANCELLED = "cancelled"
    SUPERSEDED = "superseded"
    JOB_TIMEOUT = "job_timeout"
    SIBLING_FAILED = "sibling_failed"
    JOB_CLOSED = "job_closed"


CODE_OF_REASON: Mapping[Reason, ResultCode] = {
    Reason.SCM_UNREACHABLE: ResultCode.SCM_UNREACHABLE,
    Reason.SCM_AUTH: ResultCode.SCM_AUTH,
    Reason.SCM_NOT_FOUND: ResultCode.SCM_NOT_FOUND,
    Reason.SCM_UNTRUSTED: ResultCode.SCM_UNTRUSTED,
    Reason.SCM_FORBIDDEN: ResultCode.SCM_FORBIDDEN,
    Reason.SCM_REFUSED: ResultCode.SCM_REFUSED,
    Reason.CONFIG_REFUSED: ResultCode.ENGINE_CONFIG,
    Reason.PARAMETERS_REFUSED: ResultCode.ENGINE_PARAMETERS,
    Reason.ENGINE_FAILED: ResultCode.ENGINE_FAILED,
    Reason.ENGINE_TIMEOUT: ResultCode.ENGINE_TIMEOUT,
    Reason.ENGINE_SILENT: ResultCode.ENGINE_TIMEOUT,
    Reason.OUT_OF_MEMORY: ResultCode.ENGINE_FAILED,
    Reason.OUTPUT_LIMIT: ResultCode.ENGINE_FAILED,
    Reason.REPORT_UNREADABLE: ResultCode.REPORT_UNREADABLE,
    Reason.NO_COVERAGE: ResultCode.ENGINE_FAILED,
    Reason.CHECKOUT_FAILED: ResultCode.CHECKOUT_FAILED,
    Reason.UPLOAD_FAILED: ResultCode.ARTIFACT_UPLOAD,
    Reason.WORKER_INTERRUPTED: ResultCode.WORKER_LOST,
    Reason.HANDED_BACK: ResultCode.WORKER_LOST,
    Reason.WORKER_ERROR: ResultCode.WORKER_LOST,
    Reason.UNSUPPORTED: ResultCode.ENGINE_PARAMETERS,
    Reason.WORKER_LOST: ResultCode.WORKER_LOST,
    Reason.CANCELLED: ResultCode.CANCELLED,
    Reason.SUPERSEDED: ResultCode.SUPERSEDED,
    Reason.JOB_TIMEOUT: ResultCode.JOB_TIMEOUT,
    Reason.SIBLING_FAILED: ResultCode.SIBLING_FAILED,
    Reason.JOB_CLOSED: ResultCode.SERVER_ERROR,
}

#: Reasons a worker may report; the rest are the server's own.
REPORTABLE: frozenset[Reason] = frozenset(
    set(Reason)
    - {
        Reason.WORKER_LOST,
        Reason.SUPERSEDED,
        Reason.JOB_TIMEOUT,
        Reason.SIBLING_FAILED,
        Reason.JOB_CLOSED,
    }
)

#: Reasons that are the worker's or the network's fault: the task is tried again, bounded.
RETRYABLE: frozenset[Reason] = frozenset(
    {
        Reason.SCM_UNREACHABLE,
        Reason.CHECKOUT_FAILED,
        Reason.UPLOAD_FAILED,
        Reason.WORKER_INTERRUPTED,
        Reason.HANDED_BACK,
        Reason.WORKER_ERROR,
        Reason.WORKER_LOST,
    }
)

#: Retryable reasons that took the worker down with them: counted apart from failures, so that a
#: task that does so again and again does not meet one worker after another.
RESETTING: frozenset[Reason] = frozenset({Reason.WORKER_LOST, Reason.WORKER_INTERRUPTED})

#: What such a task closes with, in printf's form: how often, and what happened the last time.
TOOK_DOWN = "%s attempts at it took their worker down, so it is not tried again; the last: %s"

#: What is the worker's own fault, whatever the task: several in a row quarantine it.
WORKER_FAULTS: frozenset[Reason] = frozenset(
    {
        Reason.WORKER_ERROR,
        Reason.UPLOAD_FAILED,
        Reason.WORKER_LOST,
        Reason.WORKER_INTERRUPTED,
    }
)

#: What may be the worker's fault or the repository's: the worker's once another worker succeeds
#: with the same task.
CONTESTED_FAULTS: frozenset[Reason] = frozenset({Reason.CHECKOUT_FAILED, Reason.SCM_UNREACHABLE})

#: Failures of an attempt that got as far as its engine: they show, as success does, that the
#: worker works.
VINDICATING: frozenset[Reason] = frozenset(
    {
        Reason.ENGINE_FAILED,
        Reason.ENGINE_TIMEOUT,
        Reason.ENGINE_SILENT,
        Reason.OUT_OF_MEMORY,
        Reason.OUTPUT_LIMIT,
        Reason.REPORT_UNREADABLE,
        Reason.NO_COVERAGE,
    }
)
