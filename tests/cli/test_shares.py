"""Weights and limits from the command line, beside a running server."""

from __future__ import annotations

from cli.exits import Exit
from tests.cli.commandline import CommandLine


def test_weights_and_limits_are_set_and_shown(served: CommandLine) -> None:
    served("orgs", "create", "shared", "--team", "default")
    made = served(
        "projects", "create", "https://git.example.invalid/x.git", "--org", "shared", "--json"
    )
    project = made.json()["project"]

    org = served("orgs", "share", "shared", "--weight", "3", "--limit", "40")
    own = served("projects", "share", project, "--weight", "2", "--limit", "4")
    freed = served("projects", "share", project, "--no-limit")

    assert org.out == "organisation shared has weight 3 and a limit of 40\n"
    assert own.out == f"project {project} has weight 2 and a limit of 4\n"
    assert freed.out == f"project {project} has weight 2 and no limit\n"
    listed = {one["org_sid"]: one for one in served("orgs", "list", "--json").json()}
    assert (listed["shared"]["weight"], listed["shared"]["max_running"]) == (3, 40)


def test_an_engine_is_limited_and_freed(served: CommandLine) -> None:
    limited = served("engines", "limit", "pylint", "--limit", "8")
    listed = served("engines", "list").out
    freed = served("engines", "limit", "pylint", "--no-limit")

    assert limited.out == "engine pylint has a limit of 8\n"
    assert listed == "pylint\t8\n"
    assert freed.out == "engine pylint has no limit\n"


def test_a_share_without_a_change_is_refused(served: CommandLine) -> None:
    nothing = served("orgs", "share", "shared")
    both = served("engines", "limit", "pylint", "--limit", "1", "--no-limit")

    assert nothing.status == both.status == Exit.USAGE
    assert "--limit" in nothing.err
    assert "not both" in both.err
