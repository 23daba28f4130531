"""`python -m cli`: the same as `kennel`; how `kennel up` starts its workers."""

from __future__ import annotations

from cli.main import main

if __name__ == "__main__":
    main()
