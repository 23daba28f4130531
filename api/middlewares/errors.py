"""Exceptions become error answers, here and only here; JSON, whatever the caller accepts."""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler

from api.envelope import error
from api.errors import FieldError, Refused
from core.domain.errors import (
    ActiveJobExists,
    AlreadyExists,
    InvalidField,
    KennelError,
    LeaseLost,
    NotFound,
    ScmError,
)
from core.runtime.logs import get_logger
from core.store.pool import DatabaseUnavailable
from core.store.pool import is_unavailable as is_database_unavailable

log = get_logger(__name__)

#: What the reference server answers when jobs of the project are open.
ACTIVE_JOB_CODE = 300
#: A statement ended by the time limit, or by the database's administrator.
_STATEMENT_ENDED = "57014"

_TEXTS = {
    404: "no such path",
    405: "the method is not allowed here",
    413: "the body is larger than accepted",
    500: "internal error; the log has it under this request's id",
}


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer whatever the handler raises."""
    try:
        return await handler(request)
    except web.HTTPException as exception:
        return _of_http(exception)
    except Refused as refused:
        return error(
            refused.status,
            refused.message,
            code=refused.code,
            fields=refused.fields,
            headers=refused.headers,
        )
    except KennelError as kennel_error:
        answer = _of_kennel(kennel_error)
        if answer is not None:
            return answer
        log.exception("request.failed")
        return error(500, _TEXTS[500])
    except Exception as exception:
        # The edge: a bug is one answer and one log entry, never a dead process.
        if is_unavailable(exception):
            return _unavailable(exception)
        log.exception("request.failed")
        return error(500, _TEXTS[500])


def is_unavailable(exception: BaseException) -> bool:
    """Tell whether the database is away or overworked: the same request may work soon."""
    return (
        isinstance(exception, TimeoutError)
        or is_database_unavailable(exception)
        or getattr(exception, "sqlstate", None) == _STATEMENT_ENDED
    )


def _of_kennel(exception: KennelError) -> web.Response | None:
    match exception:
        case AlreadyExists():
            return error(
                400,
                str(exception),
                fields=[FieldError(exception.field, (exception.message,))],
                existing_id=exception.existing_id,
            )
        case InvalidField():
            fields = [FieldError(exception.field, (exception.message,))]
            return error(400, str(exception), fields=fields)
        case ActiveJobExists():
            return error(400, str(exception), code=ACTIVE_JOB_CODE)
        case ScmError():
            return error(400, exception.message)
        case NotFound():
            return error(404, str(exception))
        case LeaseLost():
            return error(409, str(exception), code="lease_lost")
        case DatabaseUnavailable():
            return _unavailable(exception)
        case _:
            return None


def _unavailable(exception: BaseException) -> web.Response:
    log.warning("request.refused", reason="database", error=str(exception)[:500])
    return error(503, "the database is not available; try again", headers={"Retry-After": "1"})


def _of_http(exception: web.HTTPException) -> web.Response:
    kept = {name: exception.headers[name] for name in ("Allow",) if name in exception.headers}
    status = exception.status
    if status < 400:
        raise exception
    return error(status, _TEXTS.get(status, exception.reason.lower()), headers=kept)
