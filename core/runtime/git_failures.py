"""What git's last words mean: a reason from the closed set, and a sentence one can act on.

git runs with LC_ALL=C, so its words are stable. What the other side says is among them, so the
words decide about the reason only, and are shown shortened and without control characters.
"""

from __future__ import annotations

import re
import signal

from core.domain.errors import ScmError
from core.domain.outcomes import Reason
from core.domain.scm import redact

_DETAIL = 300

#: First match counts: (pattern, reason, what to do).
_MEANINGS: tuple[tuple[re.Pattern[str], Reason, str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), reason, advice)
    for pattern, reason, advice in (
        (
            r"no space left on device|disk quota exceeded",
            Reason.CHECKOUT_FAILED,
            "the disk of this host is full",
        ),
        (
            rf"died of signal {int(signal.SIGXFSZ)}\b|file too large",
            Reason.SCM_REFUSED,
            "the repository is larger than is accepted here",
        ),
        (
            r"transport '.*' not allowed|strange (hostname|pathname|port) .*blocked",
            Reason.SCM_REFUSED,
            "this transport is not accepted: use https or ssh",
        ),
        (
            (
                r"requested URL returned error: 30[1-8]|unable to update url base"
                r"|too many redirects|HTTP 30[1-8]"
            ),
            Reason.SCM_REFUSED,
            "the server redirects elsewhere, which is not followed: register the final URL",
        ),
        (
            (
                r"host key verification failed|REMOTE HOST IDENTIFICATION HAS CHANGED"
                r"|no .* host key is known"
            ),
            Reason.SCM_UNTRUSTED,
            "the host key is not known or has changed: add it to the known_hosts of this service",
        ),
        (
            (
                r"SSL certificate problem|certificate verif|certificate subject name"
                r"|SSL: no alternative|server verification failed|self[- ]signed certificate"
                r"|unable to get local issuer"
            ),
            Reason.SCM_UNTRUSTED,
            "the certificate of the server is not trusted: add its authority to this host",
        ),
        (
            (
                r"authentication failed|could not read (username|password)|returned error: 401"
                r"|permission denied \(|terminal prompts disabled|invalid credentials"
                r"|error in libcrypto|HTTP Basic: Access denied"
            ),
            Reason.SCM_AUTH,
            "the credentials are missing or refused: check user, password or key",
        ),
        (
            r"returned error: 403|access denied|forbidden|not authorized|not permitted",
            Reason.SCM_FORBIDDEN,
            "the credentials work, but access to this repository is forbidden",
        ),
        (
            r"detected dubious ownership",
            Reason.SCM_FORBIDDEN,
            "the folder belongs to another user: this service may not read it",
        ),
        (
            (
                r"repository .*not found|returned error: (404|410)|does not appear to be a git repo"
                r"|not a git repository|repository not exported|no such (project|repository)"
                r"|project .*(not be found|not found)|info/refs not valid"
            ),
            Reason.SCM_NOT_FOUND,
            "the repository does not exist at this URL, or these credentials may not see it",
        ),
        (
            r"couldn't find remote ref|not our ref|unadvertised object|remote branch .* not found",
            Reason.SCM_NOT_FOUND,
            "the branch or commit does not exist in the repository",
        ),
        (
            r"^error: object .*: |fsck error|in packed object|invalid path",
            Reason.SCM_REFUSED,
            "the repository contains objects that git considers broken or dangerous",
        ),
    )
)


def scm_error(stderr: str, *, url: str) -> ScmError:
    """Return the error for a remote command of git that failed with these words.

    What is not recognised counts as unreachable: worth another try, bounded by whoever tries.
    """
    for pattern, reason, advice in _MEANINGS:
        for line in stderr.splitlines():
            if pattern.search(line):
                is_transient = reason is Reason.CHECKOUT_FAILED
                message = _message(url, advice, _shown(line))
                return ScmError(reason, message, is_transient=is_transient)
    advice = "the repository cannot be reached"
    message = _message(url, advice, last_words(stderr))
    return ScmError(Reason.SCM_UNREACHABLE, message, is_transient=True)


def too_slow(*, url: str, timeout_s: float) -> ScmError:
    """Return the error for a remote that did not answer in time."""
    advice = f"the repository did not answer within {timeout_s:g} s"
    return ScmError(Reason.SCM_UNREACHABLE, _message(url, advice, ""), is_transient=True)


def last_words(stderr: str) -> str:
    """Return what git said last that is an error, short and printable."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    telling = [line for line in lines if line.lower().startswith(("fatal:", "error:"))] or lines
    return _shown(telling[-1]) if telling else ""


def _shown(line: str) -> str:
    text = redact(line.strip())
    return "".join(char if char.isprintable() else "?" for char in text)[:_DETAIL]


def _message(url: str, advice: str, detail: str) -> str:
    return f"{redact(url)}: {advice}" + (f" (git: {detail})" if detail else "")
