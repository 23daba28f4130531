"""The tokens `kennel up` makes for itself: one for the commands of this machine, one a worker.

Texts stand in files of mode 0600 below the data directory, never in an environment or argument.
"""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass, field
from pathlib import Path

from cli.local.place import Place, write_private
from core.domain.errors import SettingError
from core.domain.ids import TokenId
from core.domain.states import Role
from core.domain.tokens import TokenKind, hash_token, make_token
from core.runtime.secretfiles import read_secret
from core.store import tokens
from core.store.store import Store
from core.store.tokens import NewToken

#: An enrolment token is used within seconds or never.
_ENROLMENT_S = 600.0


def user_name() -> str:
    """Return who runs this: the creator of the jobs of this machine's commands."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid {os.geteuid()}"


async def ensure_local_token(place: Place, store: Store) -> bool:
    """See to it that the place's token file opens this database; True: a token was made."""
    if await _is_good(place.token_file, store):
        return False
    made = await create_token(store, user_name(), Role.ADMIN)
    write_private(place.token_file, f"{made.text}\n")
    return True


@dataclass(frozen=True, slots=True)
class MadeToken:
    """A token and its text, which is stored nowhere."""

    id: TokenId
    kind: str
    text: str = field(repr=False)


async def create_token(
    store: Store, name: str, role: Role | None, *, lifetime_s: float | None = None
) -> MadeToken:
    """Add a token: a user's of all organisations with *role*, without one a worker's enrolment.

    An enrolment token without an end of life can be used once.
    """
    kind = "user" if role is not None else "enrolment"
    is_single_use = role is None and lifetime_s is None
    text = make_token(TokenKind.USER if role is not None else TokenKind.ENROLMENT)
    new = NewToken(kind, name, role, None, is_single_use, lifetime_s)
    return MadeToken(await tokens.create(store, new, hash_token(text)), kind, text)


async def leave_enrolment_token(store: Store, file: Path, name: str) -> TokenId:
    """Write a new single-use enrolment token to *file*; return its id."""
    text = make_token(TokenKind.ENROLMENT)
    new = NewToken("enrolment", name, None, None, is_single_use=True, lifetime_s=_ENROLMENT_S)
    token_id = await tokens.create(store, new, hash_token(text))
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_private(file, f"{text}\n")
    return token_id


async def is_used(store: Store, token_id: TokenId) -> bool:
    """Tell whether a worker has registered with an enrolment token."""
    return (await tokens.get(store, token_id, org_id=None)).used_at is not None


async def _is_good(file: Path, store: Store) -> bool:
    try:
        token = read_secret(file, named_by="the local server's token")
    except SettingError:
        return False
    (found,) = await tokens.find_users(store, [hash_token(token)])
    return found is not None and found.role is Role.ADMIN and found.org_id is None
