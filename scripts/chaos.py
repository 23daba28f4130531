"""Break everything that can break, for a while, and judge what came of it.

`python scripts/chaos.py --seed 7 --minutes 10`; the last line is the verdict. With `--judge FOLDER`
it judges once more what an earlier campaign kept. docs/faults.md says what is done and proved.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import secrets
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.runtime.logs import configure_logs
from core.runtime.settings import LogSettings
from tests.faults import campaign


def say(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, help="the same seed, the same plan; default: any")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--keep", action="store_true", help="keep the files without a violation")
    parser.add_argument("--judge", type=Path, metavar="FOLDER", help="judge a kept folder again")
    options = parser.parse_args()
    configure_logs(LogSettings(level="error"), "chaos")
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    if options.judge is not None:
        return tell(campaign.judge(options.judge, campaign.faults_done(options.judge), Counter()))
    seed = secrets.randbelow(1_000_000) if options.seed is None else options.seed
    home = Path(tempfile.mkdtemp(prefix="kennel-chaos-"))
    home.chmod(0o711)  # the database's own user passes through
    folder = home / f"seed-{seed}"
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        verdict = runner.run(
            campaign.campaign(folder, seed=seed, seconds=60 * options.minutes, say=say)
        )
    if verdict.violations or options.keep:
        say(f"chaos: kept: {folder} (judge again: scripts/chaos.py --judge {folder})")
    else:
        shutil.rmtree(home)
    return tell(verdict)


def tell(verdict: campaign.Verdict) -> int:
    campaign.show(verdict, say)
    say(verdict.line())
    return 1 if verdict.violations else 0


if __name__ == "__main__":
    sys.exit(main())
