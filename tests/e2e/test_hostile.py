"""A repository that wants to run code in the scanner is scanned, and nothing of it runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.processes import Kennel, closed, create, register
from tests.e2e.repositories import new_repository

#: What pylint, its plugins and the interpreter import by name.
IMPORTED = (
    "isort", "colorama", "dill", "tomlkit", "platformdirs", "mccabe", "json", "typing_extensions",
    "sitecustomize", "usercustomize", "astroid_brain", "conftest",
)  # fmt: skip


def hostile_files(canary: Path) -> dict[str, str]:
    touch = f"open({str(canary)!r} + __name__.replace('.', '_'), 'w').close()\n"
    files = {f"{name}.py": touch for name in IMPORTED}
    files |= {f"{name}/__init__.py": touch for name in ("astroid", "pylint", "evil_package")}
    rc = (
        "[MAIN]\n"
        f"init-hook=open({str(canary)!r} + 'init_hook', 'w').close()\n"
        "load-plugins=evil,isort\n"
    )
    return files | {
        "evil.py": touch + "def register(linter):\n    " + touch,
        ".pylintrc": rc,
        "pylintrc": rc,
        "setup.cfg": rc.replace("[MAIN]", "[pylint.MAIN]"),
        "pyproject.toml": (
            "[tool.pylint.main]\n"
            f"init-hook = \"open({str(canary)!r} + 'toml', 'w').close()\"\n"
            'load-plugins = ["evil"]\n'
        ),
        ".gitattributes": "*.py filter=evil diff=evil\n",
        "victim.py": "import os\nimport isort\nx = undefined_name\n# pylint: load-plugins=evil\n",
    }


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("isolation", ["group", "auto"])
async def test_nothing_of_a_hostile_repository_runs(
    kennel: Kennel, tmp_path: Path, isolation: str
) -> None:
    canary = tmp_path / "canary-"
    api = await kennel.start_api()
    await kennel.start_scheduler()
    await kennel.start_worker("w", api=api, KENNEL_WORKER__ISOLATION=isolation)
    repository = new_repository(tmp_path / "repo", hostile_files(canary))
    project = await register(api, repository.url, engines=["pylint", "ruff", "lines"])

    job = await closed(api, project, await create(api, project), within_s=120)

    assert job["result_code"] == 0, job
    assert list(tmp_path.glob("canary-*")) == []
    results = {
        task["task_name"]: (await api.get(task["result_path"])).body for task in job["tasks"]
    }
    for engine in ("pylint", "ruff"):
        found = {(f["path"], f["rule"]) for f in results[engine]["findings"]}
        assert {rule for path, rule in found if path == "victim.py"}, engine
    planned = results["pylint"]["coverage"]["planned"]
    assert planned == len([name for name in hostile_files(canary) if name.endswith(".py")])
    assert results["pylint"]["coverage"]["analysed"] == planned


@pytest.mark.parametrize(
    ("url", "branch"),
    [
        ("--upload-pack=touch {canary}", "main"),
        ("ext::sh -c 'touch {canary}'", "main"),
        ("ssh://-oProxyCommand=touch%20{canary}/x", "main"),
        ("https://user:secret@git.example/x.git", "main"),
        ("http://127.0.0.1:1/x.git", "--upload-pack=touch {canary}"),
        ("http://127.0.0.1:1/x.git", "-b"),
        ("http://127.0.0.1:1/x.git", "a..b"),
    ],
)
async def test_a_hostile_url_or_branch_is_refused_and_nothing_runs(
    kennel: Kennel, tmp_path: Path, url: str, branch: str
) -> None:
    canary = tmp_path / "canary-git"
    api = await kennel.start_api()
    base = "/server/main/api/orgs"
    await api.post(f"{base}/", {"org_sid": "acme"})
    await api.post(f"{base}/acme/teams/", {"name": "t"})
    repo = await api.post(
        f"{base}/acme/teams/t/repos/",
        {"scm_url": url.format(canary=canary), "scm_type": "git"},
    )
    refused = repo
    if repo.status == 201:
        refused = await api.post(
            f"{base}/acme/teams/t/repos/{repo.data['id']}/projects/",
            {"branch": branch.format(canary=canary)},
        )

    assert refused.status == 400
    field = refused.body["invalid_fields"][0]["field"]
    assert field == ("branch" if repo.status == 201 else "scm_url")
    assert not canary.exists()
