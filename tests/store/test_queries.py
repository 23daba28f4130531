from __future__ import annotations

import ast
import re
from pathlib import Path

import asyncpg
import pytest

from core.store.pool import Database
from core.store.queries import all_queries, query

STORE = Path(__file__).parents[2] / "core" / "store"

#: What a connection given back would carry to the next borrower: `core.store.pool` resets nothing.
LASTING = {
    "LISTEN": r"\b(un)?listen\b",
    "SET without LOCAL": r"(^|;)\s*set\s+(?!local\b)",
    "set_config beyond the transaction": r"\bset_config\s*\([^)]*\bfalse\b",
    "session advisory lock": r"\bpg_(try_)?advisory_(?!xact_)(un)?lock",
    "cursor WITH HOLD": r"\bwith\s+hold\b",
    "temporary table": r"\bcreate\s+(local\s+|global\s+)?temp",
    "PREPARE": r"(^|;)\s*prepare\b",
}


def without_comments(sql: str) -> str:
    return re.sub(r"--[^\n]*|/\*.*?\*/", " ", sql, flags=re.DOTALL)


def bound_names() -> set[str]:
    """Names in `query("…")` anywhere in the store."""
    names = set()
    for module in STORE.glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            match node:
                case ast.Call(func=ast.Name(id="query"), args=[ast.Constant(value=str(name))]):
                    names.add(name)
    return names


def test_every_statement_is_used_and_every_used_one_exists() -> None:
    assert bound_names() == set(all_queries())


def test_every_statement_opens_with_its_sentence() -> None:
    silent = [
        name
        for name, sql in all_queries().items()
        if not re.match(r"-- [A-Z].*?[.;:](\s|$)", sql, flags=re.DOTALL)
    ]

    assert silent == []


def test_no_statement_leaves_anything_on_its_connection() -> None:
    found = [
        f"{name}: {what}"
        for name, sql in all_queries().items()
        for what, pattern in LASTING.items()
        if re.search(pattern, without_comments(sql), flags=re.IGNORECASE)
    ]

    assert found == []


@pytest.mark.parametrize(
    "sql",
    [
        "LISTEN kennel",
        "SET statement_timeout = 0",
        "SELECT 1; set role x",
        "SELECT set_config('a.b', '1', false)",
        "SELECT pg_advisory_lock(1)",
        "SELECT pg_try_advisory_lock_shared(1)",
        "CREATE TEMP TABLE t ()",
    ],
)
def test_the_search_finds_what_lasts(sql: str) -> None:
    assert any(re.search(pattern, sql, flags=re.IGNORECASE) for pattern in LASTING.values())


@pytest.mark.parametrize(
    "sql",
    [
        "SET LOCAL lock_timeout = '1s'",
        "UPDATE t SET a = 1",
        "UPDATE t\nSET a = 1",
        "SELECT pg_advisory_xact_lock(1)",
        "SELECT pg_try_advisory_xact_lock(1)",
    ],
)
def test_the_search_leaves_alone_what_ends_with_the_transaction(sql: str) -> None:
    assert not any(re.search(pattern, sql, flags=re.IGNORECASE) for pattern in LASTING.values())


async def test_every_statement_prepares_on_the_migrated_schema(db: Database) -> None:
    wrong = {}
    async with db.connection() as connection:
        for name, sql in all_queries().items():
            try:
                await connection.raw.prepare(sql)
            except asyncpg.PostgresError as error:
                wrong[name] = str(error)

    assert wrong == {}


@pytest.mark.parametrize("name", ["tasks", "../etc/passwd", "tasks/../../x", "Tasks/claim", ""])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(LookupError, match="named noun/verb"):
        query(name)


def test_a_statement_that_does_not_exist_is_named() -> None:
    with pytest.raises(LookupError, match=r"sql/tasks/dance\.sql does not exist"):
        query("tasks/dance")
