"""Which repository URLs, branches and revisions Kennel accepts, before git ever sees them.

A URL becomes part of a command line and of requests this service makes, so what is accepted is
listed, never what is refused. Everything here raises `ScmError` with reason `scm_refused`; at the
edge of a request, `as_field` turns that into the error of a field.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlsplit

from core.domain.errors import InvalidField, ScmError
from core.domain.outcomes import Reason

_MAX_URL = 2000
_MAX_BRANCH = 255
_MAX_SECRET = 16 << 10

_UNSEEN = re.compile(r"[\x00-\x20\x7f-\xa0\u2028\u2029\ud800-\udfff]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_HIDDEN_CONTROL = re.compile(r"%(?:[01][0-9a-f]|7f)", re.IGNORECASE)
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]{0,253}[A-Za-z0-9])?\.?")
_IPV6 = re.compile(r"[0-9A-Fa-f:.]{2,45}")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63}")
_SCP = re.compile(r"(?P<user>[^@:/]+)@(?P<host>[^@:/\[\]]+):(?P<path>.*)", re.DOTALL)
_REVISION = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_BAD_IN_REF = re.compile(r"[\x00-\x20\x7f~^:?*\[\\\ud800-\udfff]|\.\.|@\{|//")
_USERINFO = re.compile(r"(?P<start>[A-Za-z][A-Za-z0-9+.-]*://)[^/?#\s@]*(?:@[^/?#\s@]*)*@")


class Transport(StrEnum):
    """How a repository is reached; the values are git's names."""

    HTTP = "http"
    HTTPS = "https"
    SSH = "ssh"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class ScmUrl:
    """A repository's address that passed every check."""

    #: What git is given.
    url: str
    transport: Transport
    #: Lowercase; "" for a local path.
    host: str
    #: None: the transport's own.
    port: int | None
    path: str

    @property
    def is_local(self) -> bool:
        """Tell whether it is a folder of this host."""
        return self.transport is Transport.FILE

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True, slots=True)
class ScmCredentials:
    """What opens a repository; shown in no text of this object."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    private_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("username", "password"):
            value = getattr(self, name)
            if value is not None and (_CONTROL.search(value) or len(value) > _MAX_SECRET):
                raise _refused(f"the {name} contains a line break or control character, or is long")
        key = self.private_key
        if key is not None and ("\0" in key or "PRIVATE KEY" not in key or len(key) > _MAX_SECRET):
            raise _refused("the private key is not one in PEM or OpenSSH form")


def parse_scm_url(url: str, *, allow_local: bool = False) -> ScmUrl:
    """Return the address when it is one of http(s), ssh, `user@host:path` or, where allowed, local.

    Raises:
        ScmError: `scm_refused`, with what to change.
    """
    if not url or len(url) > _MAX_URL:
        raise _refused(f"the repository URL must have 1 to {_MAX_URL} characters")
    if url.startswith("-"):
        raise _refused("the repository URL must not start with '-'")
    if url.startswith("/"):
        return _local(url, url, allow_local=allow_local)
    if _UNSEEN.search(url) or _HIDDEN_CONTROL.search(url):
        raise _refused("the repository URL contains a space or a control character")
    if "://" in url:
        return _absolute(url, allow_local=allow_local)
    if "::" in url:
        raise _refused("the repository URL names a program to fetch by ('::'): use https or ssh")
    if match := _SCP.fullmatch(url):
        return _scp_like(url, match)
    raise _refused(
        "the repository URL must be https://host/path, http://host/path, ssh://user@host/path "
        "or user@host:path"
    )


def redact(url: str) -> str:
    """Return a text with the userinfo of every URL in it left out, for logs and messages."""
    return _USERINFO.sub(lambda match: f"{match['start']}…@", url)


def check_branch(name: str) -> str:
    """Return the name of a branch when git would accept it as one (`git check-ref-format`).

    Raises:
        ScmError: `scm_refused`, with what is wrong.
    """
    if not name or len(name) > _MAX_BRANCH:
        raise _refused(f"the branch must have 1 to {_MAX_BRANCH} characters")
    if name.startswith(("-", "/")) or name.endswith(("/", ".")) or name in {"@", "HEAD"}:
        raise _refused("the branch must not start with '-' or '/', end with '/' or '.', or be HEAD")
    if _BAD_IN_REF.search(name):
        raise _refused(
            "the branch contains a space, a control character, '..' or one of ~^:?*[\\@{"
        )
    if any(part.startswith(".") or part.endswith(".lock") for part in name.split("/")):
        raise _refused("no part of the branch may start with '.' or end with '.lock'")
    return name


def check_revision(revision: str) -> str:
    """Return a full commit id in lowercase.

    Raises:
        ScmError: `scm_refused`: it is abbreviated, or a name.
    """
    lowered = revision.lower()
    if not _REVISION.fullmatch(lowered):
        raise _refused("the revision must be a full commit id of 40 or 64 hexadecimal digits")
    return lowered


@contextmanager
def as_field(name: str) -> Iterator[None]:
    """Turn a refusal within the block into the error of a request's field."""
    try:
        yield
    except ScmError as error:
        raise InvalidField(name, f"is refused: {error.message}") from error


def _absolute(url: str, *, allow_local: bool) -> ScmUrl:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _refused(f"the repository URL cannot be read: {error}") from error
    if parts.scheme == "file":
        if parts.netloc not in {"", "localhost"}:
            raise _refused("a file URL must be file:///absolute/path, without a host")
        return _local(url, parts.path, allow_local=allow_local)
    if parts.scheme not in {"http", "https", "ssh"}:
        raise _refused(f"the transport {parts.scheme!r} is not accepted: use https, http or ssh")
    transport = Transport(parts.scheme)
    if parts.query or parts.fragment or "?" in url or "#" in url:
        raise _refused("the repository URL must have no query and no fragment")
    _check_userinfo(transport, parts.username, parts.password, has_any="@" in parts.netloc)
    host = _checked_host(parts.hostname or "", is_bracketed="[" in parts.netloc)
    if port == 0 or (parts.netloc.endswith(":") and port is None):
        raise _refused("the port of the repository URL must be 1 to 65535")
    if not parts.path.strip("/"):
        raise _refused("the repository URL must name a repository after the host")
    return ScmUrl(url, transport, host, port, parts.path)


def _check_userinfo(
    transport: Transport, username: str | None, password: str | None, *, has_any: bool
) -> None:
    if password is not None:
        raise _refused("the repository URL must not contain a password: give it as credentials")
    if not has_any:
        return
    if transport is not Transport.SSH:  # a token is often put in place of the user
        raise _refused("the repository URL must not contain a user: give it as credentials")
    if not _USER.fullmatch(username or ""):
        raise _refused("the user in the repository URL has characters that are not accepted")


def _checked_host(host: str, *, is_bracketed: bool) -> str:
    pattern = _IPV6 if is_bracketed else _HOST
    if not pattern.fullmatch(host):
        raise _refused("the host in the repository URL is missing or not a host name")
    return host.lower()


def _scp_like(url: str, match: re.Match[str]) -> ScmUrl:
    if not _USER.fullmatch(match["user"]):
        raise _refused("the user in the repository URL has characters that are not accepted")
    host = _checked_host(match["host"], is_bracketed=False)
    path = match["path"]
    if not path.strip("/") or path.startswith("-"):
        raise _refused("the repository URL must name a repository after the colon")
    return ScmUrl(url, Transport.SSH, host, None, path)


def _local(url: str, path: str, *, allow_local: bool) -> ScmUrl:
    if not allow_local:
        raise _refused("local repositories are not accepted here: use https or ssh")
    # A space is fine in a folder's name: no shell ever reads it.
    if _CONTROL.search(path) or not path.startswith("/") or path.startswith("//"):
        raise _refused("a local repository must be an absolute path without control characters")
    return ScmUrl(url, Transport.FILE, "", None, path)


def _refused(message: str) -> ScmError:
    return ScmError(Reason.SCM_REFUSED, message)
