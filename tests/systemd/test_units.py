"""What systemd itself says of the units, without starting them."""

from __future__ import annotations

import pytest

from tests.systemd.installation import UNITS
from tests.systemd.lab import Lab

NAMES = sorted(unit.name for unit in UNITS.glob("*.service"))
SERVICES = ["kennel-api.service", "kennel-scheduler.service", "kennel-worker@1.service"]


def instance(name: str) -> str:
    return name.replace("@.", "@1.")


def test_the_units_are_those_the_readme_names() -> None:
    assert NAMES == [
        "kennel-api.service",
        "kennel-migrate.service",
        "kennel-scheduler.service",
        "kennel-worker@.service",
    ]
    readme = (UNITS / "README.md").read_text()
    for file in UNITS.iterdir():
        assert f"`{file.name}`" in readme or file.name == "README.md", file.name


@pytest.mark.parametrize("name", NAMES)
def test_systemd_finds_nothing_to_say_against_a_unit(lab: Lab, name: str) -> None:
    done = lab.run("systemd-analyze", "verify", f"/etc/systemd/system/{instance(name)}")

    assert done.stdout + done.stderr == ""


# Tenths of systemd's own score: 0 is safest, 100 what a bare unit gets (9.6).
@pytest.mark.parametrize(
    ("name", "most"),
    [("kennel-api", 35), ("kennel-scheduler", 35), ("kennel-migrate", 45), ("kennel-worker@1", 50)],
)
def test_a_unit_is_no_more_exposed_than_it_was(lab: Lab, name: str, most: int) -> None:
    lab.run("systemd-analyze", "security", f"--threshold={most}", f"{name}.service")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_ready_when_it_says_so_and_ends_in_its_own_order(lab: Lab, name: str) -> None:
    found = lab.show(
        name, "Type", "KillMode", "Restart", "RestartPreventExitStatus", "User", "DynamicUser"
    )

    assert found == {
        "Type": "notify",
        "KillMode": "mixed",
        "Restart": "on-failure",
        "RestartPreventExitStatus": "77 78" if "worker" in name else "78",
        "User": "kennel-worker" if "worker" in name else "kennel",
        "DynamicUser": "no",
    }


def test_a_worker_s_user_reads_nothing_of_the_server(lab: Lab) -> None:
    users = lab.run("getent", "passwd", "kennel", "kennel-worker").stdout.splitlines()
    modes = lab.run("stat", "--format=%a %U %n", "/etc/kennel/credentials").stdout.split()

    assert len(users) == 2
    assert modes == ["700", "root", "/etc/kennel/credentials"]
