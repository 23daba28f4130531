"""How long the machine searches: the same examples every day, others and more when asked to."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings

#: Of `make test`: always the same examples.
DAILY = settings(
    max_examples=120,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=False,
    suppress_health_check=list(HealthCheck),
)
#: The same, of calls at once, which take longer.
DAILY_RACES = settings(DAILY, max_examples=60)
#: Of `make test-long`: other examples each time; what fails prints how to have it again.
LONG = settings(DAILY, max_examples=4000, derandomize=False, print_blob=True)
#: For a mistake that is there: the first example that shows it will do.
SEARCH = settings(DAILY, max_examples=1000, phases=[Phase.generate], report_multiple_bugs=False)
