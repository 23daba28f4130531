"""One booted systemd with Kennel installed, for all tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.systemd import installation
from tests.systemd.lab import Lab, NotBooted, obstacle


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    reason = obstacle()
    if reason is not None:
        pytest.skip(f"no systemd can be booted: {reason}")
    files = installation.files(tmp_path_factory.mktemp("wheel"))
    folder = tmp_path_factory.mktemp("lab")
    with ExitStack() as stack:
        try:
            booted = stack.enter_context(Lab(folder, files=files, binds=installation.binds()))
        except NotBooted as error:
            pytest.skip(f"no systemd can be booted: {error}")
        booted.run("ldconfig")
        # As the README tells an operator to.
        booted.run("systemd-sysusers")
        booted.run("systemd-tmpfiles", "--create", "/etc/tmpfiles.d/kennel.conf")
        yield booted
