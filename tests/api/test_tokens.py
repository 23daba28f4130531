"""The form of tokens, and the first admin's."""

from __future__ import annotations

import asyncio
import io
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.bootstrap import FILE, ensure_bootstrap_token
from core.domain.errors import SettingError
from core.domain.tokens import TokenKind, hash_token, is_well_formed, kind_of, make_token
from core.runtime.settings import Settings
from core.store import tokens
from core.store.store import Store


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@given(st.sampled_from(TokenKind))
def test_a_made_token_is_well_formed_and_says_what_it_is_for(kind: TokenKind) -> None:
    token = make_token(kind)

    assert is_well_formed(token)
    assert kind_of(token) is kind
    assert token != make_token(kind)
    assert len(hash_token(token)) == 32


@given(st.integers(min_value=4, max_value=51), st.sampled_from("ABCabc019-_"))
def test_a_token_with_one_wrong_character_is_not_well_formed(position: int, other: str) -> None:
    token = make_token(TokenKind.USER)
    mistyped = token[:position] + other + token[position + 1 :]

    assert is_well_formed(mistyped) == (mistyped == token)


def test_a_token_of_one_kind_is_none_of_another() -> None:
    body = make_token(TokenKind.USER).removeprefix("knu_")

    assert not is_well_formed(f"knw_{body}")


def test_a_token_set_by_hand_is_any_32_visible_characters() -> None:
    assert is_well_formed("correct-horse-battery-staple-4711")
    assert not is_well_formed("x" * 31)
    assert not is_well_formed("x" * 513)
    assert not is_well_formed("x" * 32 + "\n")
    assert not is_well_formed("é" * 40)
    assert not is_well_formed("knu_" + "x" * 40)


async def admins(store: Store) -> int:
    return int(await store.db.fetchval("SELECT count(*) FROM tokens WHERE role = 'admin'"))


async def test_the_bootstrap_token_is_an_admin_at_every_start(store: Store, tmp_path: Path) -> None:
    secret = "correct-horse-battery-staple-4711"
    settings = Settings.model_validate({"data_dir": tmp_path, "bootstrap_token": secret})

    for _ in range(2):
        made = await ensure_bootstrap_token(settings, store)
        assert (made.token, made.file) == (None, None)

    (found,) = await tokens.find_users(store, [hash_token(secret)])
    assert found is not None
    assert (found.role, found.org_id) == ("admin", None)
    assert await admins(store) == 1
    assert not (tmp_path / FILE).exists()


async def test_a_revoked_bootstrap_token_stays_revoked(store: Store, tmp_path: Path) -> None:
    secret = "correct-horse-battery-staple-4711"
    settings = Settings.model_validate({"data_dir": tmp_path, "bootstrap_token": secret})
    await ensure_bootstrap_token(settings, store)
    await store.db.execute("UPDATE tokens SET revoked_at = now()")

    await ensure_bootstrap_token(settings, store)

    assert await tokens.find_users(store, [hash_token(secret)]) == [None]


async def test_a_bootstrap_token_that_looks_like_a_mistyped_one_of_ours_is_refused(
    store: Store, tmp_path: Path
) -> None:
    settings = Settings.model_validate({"data_dir": tmp_path, "bootstrap_token": "knu_" + "x" * 48})

    with pytest.raises(SettingError, match="KENNEL_BOOTSTRAP_TOKEN"):
        await ensure_bootstrap_token(settings, store)


async def test_without_a_terminal_the_first_token_is_left_in_a_private_file(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(data_dir=tmp_path / "data")

    made = await ensure_bootstrap_token(settings, store, terminal=io.StringIO())

    file = tmp_path / "data" / FILE
    assert made.file == file
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    left = file.read_text().strip()
    assert await tokens.find_users(store, [hash_token(left)]) != [None]
    captured = capsys.readouterr()
    assert left not in captured.out + captured.err


async def test_on_a_terminal_the_first_token_is_shown_and_left_nowhere(
    store: Store, tmp_path: Path
) -> None:
    terminal = Terminal()

    made = await ensure_bootstrap_token(Settings(data_dir=tmp_path), store, terminal=terminal)

    assert made.token is not None
    assert made.token in terminal.getvalue()
    assert list(tmp_path.iterdir()) == []
    assert await tokens.find_users(store, [hash_token(made.token)]) != [None]


async def test_processes_that_start_at_once_make_one_token(store: Store, tmp_path: Path) -> None:
    made = await asyncio.gather(
        *(
            ensure_bootstrap_token(
                Settings(data_dir=tmp_path / str(number)), store, terminal=io.StringIO()
            )
            for number in range(8)
        )
    )

    assert sum(one.token is not None for one in made) == 1
    assert await admins(store) == 1
    assert len(list(tmp_path.glob(f"*/{FILE}"))) == 1


async def test_a_second_start_makes_none_and_a_lost_admin_gets_a_new_one(
    store: Store, tmp_path: Path
) -> None:
    settings = Settings(data_dir=tmp_path)
    first = await ensure_bootstrap_token(settings, store, terminal=io.StringIO())
    second = await ensure_bootstrap_token(settings, store, terminal=io.StringIO())
    await store.db.execute("UPDATE tokens SET revoked_at = now()")
    third = await ensure_bootstrap_token(settings, store, terminal=io.StringIO())

    assert first.token is not None
    assert second.token is None
    assert third.token not in (None, first.token)
    assert (tmp_path / FILE).read_text().strip() == third.token


async def test_when_the_token_cannot_be_left_no_token_is_made(store: Store, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    settings = Settings(data_dir=tmp_path / "file" / "data")

    with pytest.raises(SettingError, match="KENNEL_DATA_DIR"):
        await ensure_bootstrap_token(settings, store, terminal=io.StringIO())

    assert await admins(store) == 0


async def test_a_single_use_enrolment_token_is_spent_once(store: Store) -> None:
    token = make_token(TokenKind.ENROLMENT)
    new = tokens.NewToken("enrolment", "rack", None, None, is_single_use=True, lifetime_s=None)
    token_id = await tokens.create(store, new, hash_token(token))

    spent = await asyncio.gather(*(tokens.spend_enrolment(store.db, token_id) for _ in range(8)))

    assert sorted(spent) == [False] * 7 + [True]
    found = await tokens.find_enrolment(store, hash_token(token))
    assert found is not None
    assert found.is_spent
