"""Options that several commands share: called and explained the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

Server: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        help="Server to talk to. Default: KENNEL_SERVER, else the one that runs on this machine.",
        show_default=False,
    ),
]
Token: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--token",
        metavar="TOKEN",
        help="User token to show there. Default: KENNEL_TOKEN (which other users of this machine "
        "cannot read, as they can an option), else the local server's.",
        show_default=False,
    ),
]
DataDir: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="FOLDER",
        help="What Kennel keeps on disk. Default: KENNEL_DATA_DIR, else ~/.local/state/kennel.",
        show_default=False,
    ),
]
AsJson: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print JSON, for scripts.", show_default=False)
]
Project: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--project",
        metavar="ORG/TEAM/REPO/PROJECT",
        help="Project, as `kennel projects list` shows it; a project id alone will do.",
        show_default=False,
    ),
]
Limit: TypeAlias = Annotated[
    int, typer.Option("--limit", metavar="N", min=1, max=1000, help="Lines at most.")
]
