"""The reference of commands says what a command takes, whatever the terminal."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from scripts.command_reference import reference


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


def sample() -> typer.Typer:
    app = typer.Typer(help="A sample.")
    jobs = typer.Typer(help="Jobs.")
    app.add_typer(jobs, name="jobs")

    @jobs.command()
    def show(
        job_id: Annotated[int, typer.Argument(help="The job.")],
        as_json: Annotated[bool, typer.Option("--json", help="JSON | for scripts.")] = False,
        colour: Annotated[Colour, typer.Option(help="Which.")] = Colour.RED,
        server: Annotated[str | None, typer.Option(envvar="SAMPLE_SERVER", help="Where.")] = None,
        engine: Annotated[list[str] | None, typer.Option(help="What.")] = None,
    ) -> None:
        """Show a job.

        More about it.
        """

    @jobs.command(hidden=True)
    def secret() -> None:
        """Nobody's business."""

    return app


def test_a_command_is_described_with_all_it_takes() -> None:
    lines = list(reference(sample(), "sample"))

    assert "### sample jobs" in lines
    assert "#### sample jobs show" in lines
    assert "`sample jobs show JOB_ID [options]`" in lines
    assert "Show a job.\n\nMore about it." in lines
    assert "| `JOB_ID` | The job. | required |" in lines
    assert "| `--json` | JSON \\| for scripts. |  |" in lines
    assert "| `--colour` `COLOUR` | Which. | `red` |" in lines
    assert "| `--server` `SERVER` | Where. | `SAMPLE_SERVER` |" in lines
    assert "| `--engine` `ENGINE`, several times | What. |  |" in lines


def test_a_hidden_command_is_not_described() -> None:
    assert "secret" not in "\n".join(reference(sample(), "sample"))
