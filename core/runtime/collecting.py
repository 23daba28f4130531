"""The garbage collector of a process that serves: it must not stop all requests to look at modules.

What a process has made by the time it is ready (modules, models, routes) lives as long as itself;
a full collection would walk all of it, tens of milliseconds, and find nothing.
"""

from __future__ import annotations

import gc

#: Objects made and not yet freed before the young ones are looked at. A request under way has
#: some hundreds, so that looking more often finds mostly what is in use.
_YOUNG = 10_000
#: Looks at the young before one at the middle-aged, and of those before one at the old.
_OFTEN = 20


def settle() -> None:
    """Leave alone what was made so far, and look less often at what is made from here on."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, _OFTEN, _OFTEN)
