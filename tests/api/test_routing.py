"""The tree of paths finds what aiohttp's own dispatcher finds, for any path and method."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from api.operations import expect
from api.routes import all_operations
from api.routing import PathTree

#: Literals and variables that cross: only by looking back is each of them found.
CROSSING = ("/a/{x}/c", "/a/b/{y}/", "/a/b/d", "/{z}", "/a/{x}/{w}/e", "/")
METHODS = ("GET", "POST", "DELETE")


async def nothing(_request: web.Request) -> web.Response:
    return web.Response()


def by_tree(routes: Sequence[tuple[str, str]]) -> web.UrlDispatcher:
    tree, dispatcher = PathTree(), web.UrlDispatcher()
    for method, path in routes:
        tree.add(method, path, nothing, expect_handler=expect)
    dispatcher.register_resource(tree)
    return dispatcher


def by_aiohttp(routes: Sequence[tuple[str, str]]) -> web.UrlDispatcher:
    dispatcher = web.UrlDispatcher()
    for method, path in routes:
        dispatcher.add_route(method, path, nothing)
    return dispatcher


ROUTES = sorted({(one.method, path) for one in all_operations() for path in one.paths()})
MADE_UP = [("GET" if len(path) % 2 else "POST", path) for path in CROSSING]
BOTH = [(by_tree(routes), by_aiohttp(routes)) for routes in (ROUTES, MADE_UP)]
WORDS = sorted({word for _, path in [*ROUTES, *MADE_UP] for word in path.split("/")})

segments = st.one_of(
    st.sampled_from([word for word in WORDS if "{" not in word]),
    st.sampled_from(["7", "x%2Fy", "%25", "%7Bx%7D", "a%20b", "é", "..", "%C3%A9", "%2e", ";v=1"]),
)


@given(
    which=st.sampled_from(range(len(BOTH))),
    method=st.sampled_from(METHODS),
    path=st.lists(segments, max_size=12).map(lambda found: "/" + "/".join(found)),
)
async def test_any_path_finds_what_aiohttp_would_find(which: int, method: str, path: str) -> None:
    tree, dispatcher = BOTH[which]

    assert await seen(tree, method, path) == await seen(dispatcher, method, path)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"])
async def test_every_declared_path_finds_what_aiohttp_would_find(method: str) -> None:
    tree, dispatcher = BOTH[0]

    for _, path in ROUTES:
        asked = path.replace("{", "x").replace("}", "%2Fy")
        found = await seen(tree, method, asked)
        assert found == await seen(dispatcher, method, asked)
        assert found[0] in (path, 405)


async def seen(dispatcher: web.UrlDispatcher, method: str, path: str) -> tuple[object, ...]:
    """Return what a request finds: path and variables, or status and allowed methods."""
    match = await dispatcher.resolve(make_mocked_request(method, path))
    if match.http_exception is not None:
        return match.http_exception.status, match.http_exception.headers.get("Allow")
    assert match.route.resource is not None
    return match.route.resource.canonical, match.route.method, dict(match)


@pytest.mark.parametrize("path", ["a", "/{a}.json", "/{}", "/a%20b", "/{a"])
def test_a_path_it_would_not_find_again_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"path|neither"):
        PathTree().add("GET", path, nothing, expect_handler=expect)


def test_a_route_is_added_once_and_under_one_name() -> None:
    tree = PathTree()
    tree.add("GET", "/a/{x}", nothing, expect_handler=expect)

    with pytest.raises(RuntimeError, match="already"):
        tree.add("GET", "/a/{x}", nothing, expect_handler=expect)
    with pytest.raises(ValueError, match="by other names"):
        tree.add("POST", "/a/{y}", nothing, expect_handler=expect)
    assert [route.method for route in tree] == ["GET"]
    assert len(tree) == 1
