"""Hand credentials to git without argv, environment value or URL ever holding one.

They lie in files of mode 0600 in a private folder that exists as long as one git command runs;
git is given the path of a small script that prints them, ssh the path of the key.
"""

from __future__ import annotations

import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from core.domain.scm import ScmCredentials

#: Hosts take any user with a token for a password.
_ANY_USER = "oauth2"

_ASKPASS = """\
#!/bin/sh
case "$1" in
[Uu]sername*) exec cat "${0%/*}/username" ;;
*) exec cat "${0%/*}/password" ;;
esac
"""


@contextmanager
def private_environment(
    credentials: ScmCredentials | None,
    *,
    known_hosts: Path | None,
    trusted: Sequence[Path],
    root: Path | None,
) -> Iterator[Mapping[str, str]]:
    """Yield what git's environment must name; the files are gone after the block.

    `trusted` are folders git may read though they belong to somebody else.
    """
    if not trusted and (credentials is None or not _is_filled(credentials)):
        yield {"GIT_ASKPASS": "", "GIT_SSH_COMMAND": _ssh(None, known_hosts)}
        return
    folder = Path(tempfile.mkdtemp(prefix="kennel-git-", dir=root))
    try:
        yield _write(folder, credentials or ScmCredentials(), known_hosts, trusted)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_filled(credentials: ScmCredentials) -> bool:
    return credentials.password is not None or credentials.private_key is not None


def _write(
    folder: Path,
    credentials: ScmCredentials,
    known_hosts: Path | None,
    trusted: Sequence[Path],
) -> dict[str, str]:
    environment = {"GIT_ASKPASS": "", "GIT_SSH_COMMAND": _ssh(None, known_hosts)}
    if credentials.password is not None:
        _put(folder / "username", credentials.username or _ANY_USER)
        _put(folder / "password", credentials.password)
        environment["GIT_ASKPASS"] = str(_put(folder / "askpass", _ASKPASS, mode=0o700))
    if credentials.private_key is not None:
        # ssh refuses a key without a last line break, and one with Windows' line ends.
        key = credentials.private_key.replace("\r\n", "\n").strip() + "\n"
        environment["GIT_SSH_COMMAND"] = _ssh(_put(folder / "key", key), known_hosts)
    if trusted:
        lines = "".join(f"\tdirectory = {_quoted(path)}\n" for path in trusted)
        config = _put(folder / "config", f"[safe]\n{lines}")
        environment["GIT_CONFIG_GLOBAL"] = str(config)
    return environment


def _put(path: Path, content: str, *, mode: int = 0o600) -> Path:
    path.touch(mode=mode)
    path.write_text(content, encoding="utf-8")
    return path


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _ssh(key: Path | None, known_hosts: Path | None) -> str:
    """Return the ssh command; git has a shell split it, hence the quotes.

    Without a key no identity of the service's own is tried: who names a URL must not borrow it.
    """
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "ConnectTimeout": "15",
        "ServerAliveInterval": "15",
        "ServerAliveCountMax": "2",
        "ForwardAgent": "no",
        "ClearAllForwardings": "yes",
        "PermitLocalCommand": "no",
        "ProxyCommand": "none",
        "IdentityAgent": "none",
        "IdentitiesOnly": "yes",
        "IdentityFile": "none" if key is None else str(key),
    }
    if known_hosts is not None:
        options["UserKnownHostsFile"] = str(known_hosts)
    words = ["ssh", "-F", "/dev/null", *(f"-o{name}={value}" for name, value in options.items())]
    return shlex.join(words)
