"""From a path to its route by one walk over the path's segments, however many routes there are.

aiohttp tries the patterns that begin alike one after another, and here nearly all of them do. What
a request finds is the same: `match_info`, 404, and 405 with the methods that are allowed.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from aiohttp import web

_Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]
_Expecting = Callable[[web.Request], Awaitable[web.StreamResponse | None]]

_VARIABLE = re.compile(r"\{([a-z_]+)\}")


@dataclass(eq=False, slots=True)
class _Place:
    """A path: the names of its variables, and its routes by method."""

    resource: web.DynamicResource | web.PlainResource
    names: tuple[str, ...]
    routes: dict[str, web.ResourceRoute] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class _Node:
    """Where the paths stand that have begun with the same segments."""

    literals: dict[str, _Node] = field(default_factory=dict)
    #: Where a segment leads that is any text.
    variable: _Node | None = None
    #: The path that ends here.
    place: _Place | None = None


class PathTree(web.PlainResource):
    """All routes of an application as one resource; register it, then add routes.

    A variable is a whole segment, `{name}`. Literal segments win over variables; a path that
    leads nowhere that way is tried with the variable.
    """

    def __init__(self) -> None:
        super().__init__("")
        self._root = _Node()
        self._places: list[_Place] = []

    def add(
        self, method: str, path: str, handler: _Endpoint, *, expect_handler: _Expecting
    ) -> None:
        """Add a route.

        Raises:
            ValueError: the path is none, or a variable is not a whole segment.
            RuntimeError: the path has a route for the method.
        """
        place = self._place_of(path)
        place.routes[method] = place.resource.add_route(
            method, handler, expect_handler=expect_handler
        )

    async def resolve(
        self, request: web.Request
    ) -> tuple[web.UrlMappingMatchInfo | None, set[str]]:
        """Return the route of a request, or the methods its path has routes for."""
        allowed: set[str] = set()
        for place, values in self._matches(request.rel_url.path_safe):
            route = place.routes.get(request.method)
            if route is not None:
                return web.UrlMappingMatchInfo(
                    dict(zip(place.names, values, strict=True)), route
                ), allowed
            allowed.update(place.routes)
        return None, allowed

    def __len__(self) -> int:
        return sum(len(place.routes) for place in self._places)

    def __iter__(self) -> Iterator[web.ResourceRoute]:
        return (route for place in self._places for route in place.routes.values())

    def _matches(self, path: str) -> Iterator[tuple[_Place, list[str]]]:
        """Yield the paths that match, the most literal one first, each with its variables."""
        segments = path.split("/")
        # What is left to try: bounded by the nodes of the tree.
        pending: list[tuple[_Node, int, list[str]]] = [(self._root, 0, [])]
        while pending:
            node, done, values = pending.pop()
            for number in range(done, len(segments)):
                segment = segments[number]
                literal, variable = node.literals.get(segment), node.variable
                if variable is not None and segment and not _is_odd(segment):
                    if literal is None:
                        node = variable
                        values.append(_decoded(segment))
                        continue
                    pending.append((variable, number + 1, [*values, _decoded(segment)]))
                if literal is None:
                    break
                node = literal
            else:
                if node.place is not None:
                    yield node.place, values

    def _place_of(self, path: str) -> _Place:
        if not path.startswith("/"):
            raise ValueError(f"a path starts with a slash, not {path!r}")
        node, names = self._root, []
        for segment in path.split("/"):
            found = _VARIABLE.fullmatch(segment)
            if found is not None:
                names.append(found[1])
                node.variable = node = node.variable or _Node()
            elif "{" in segment or "}" in segment or "%" in segment:
                raise ValueError(f"{segment!r} in {path!r} is neither a word nor a variable")
            else:
                node = node.literals.setdefault(segment, _Node())
        if node.place is None:
            resource = web.DynamicResource(path) if names else web.PlainResource(path)
            node.place = _Place(resource, tuple(names))
            self._places.append(node.place)
        elif node.place.resource.canonical != path:
            raise ValueError(f"{path!r} is {node.place.resource.canonical!r} by other names")
        return node.place


def _is_odd(segment: str) -> bool:
    """Tell whether a segment has what aiohttp's variables do not take."""
    return "{" in segment or "}" in segment


def _decoded(segment: str) -> str:
    """Return what a variable holds: `path_safe` left encoded what would change the segments."""
    return segment.replace("%2F", "/").replace("%25", "%") if "%" in segment else segment
