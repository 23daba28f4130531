"""How much of everything: the whole bench, the quick one, and the smallest that still runs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sizes:
    """The lengths and numbers of one kind of run."""

    name: str
    #: Runs of a fast figure; the median counts.
    runs: int
    #: Length of one run of a fast figure, seconds.
    run_s: float
    #: Tasks claimed in one run by batch size.
    tasks_of_batch: dict[int, int]
    #: Simulated workers of the figure over HTTP.
    workers: int
    #: Samples of a latency.
    samples: int
    #: Starts and cancels of real engines.
    engine_runs: int
    #: What a start leaves to do is done by then, seconds; and its transactions are counted: an idle
    #: connection hands over what it did after ten.
    settling_s: float
    #: Length of the idle measurements, seconds: some of the scheduler's looks, every five, and of
    #: the held requests, twenty and twenty-five.
    idle_s: float
    idle_workers: int
    #: Finished jobs, one task each.
    history: int
    #: Of those, in the one big project.
    big_project: int
    #: How deep the deep page is.
    deep: int

    #: Requests a query of the list is asked.
    requests: int
    #: Seconds before and with a held snapshot.
    before_s: float
    held_s: float
    #: Ready tasks before a snapshot is held: enough for all its seconds.
    backlog: int
    #: Jobs of the greedy project, and of the modest one.
    greedy: int
    modest: int
    #: Lease in the figure of kills, seconds.
    lease_s: float
    #: Rows the peers work off in one run, by name.
    peer_jobs: dict[str, int]
    #: Longest one module of figures may take, seconds.
    figure_limit_s: float
    #: Connections of `wrk`.
    connections: int = 64
    #: Whether there is time to hold a snapshot before each peer.
    peers_held: bool = True


FULL = Sizes(
    name="full",
    runs=3,
    run_s=10.0,
    tasks_of_batch={1: 8_000, 10: 40_000, 100: 100_000},
    workers=16,
    samples=600,
    engine_runs=100,
    settling_s=15.0,
    idle_s=60.0,
    idle_workers=1_000,
    history=10_000_000,
    big_project=1_000_000,
    deep=100_000,
    requests=300,
    before_s=20.0,
    held_s=60.0,
    backlog=1_500_000,
    greedy=10_000,
    modest=10,
    lease_s=30.0,
    figure_limit_s=2_400,
    peer_jobs={"procrastinate": 5_000, "pgqueuer": 50_000, "graphile": 100_000},
)

QUICK = Sizes(
    name="quick",
    runs=1,
    run_s=5.0,
    tasks_of_batch={1: 3_000, 10: 15_000, 100: 40_000},
    workers=16,
    samples=200,
    engine_runs=30,
    settling_s=12.0,
    idle_s=25.0,
    idle_workers=1_000,
    history=1_000_000,
    big_project=100_000,
    deep=90_000,
    requests=100,
    before_s=8.0,
    held_s=20.0,
    backlog=500_000,
    greedy=2_000,
    modest=10,
    lease_s=8.0,
    figure_limit_s=400,
    peer_jobs={"procrastinate": 1_500, "pgqueuer": 15_000, "graphile": 30_000},
    peers_held=False,
)

SMOKE = Sizes(
    name="smoke",
    runs=1,
    run_s=1.0,
    tasks_of_batch={1: 30, 10: 100, 100: 400},
    workers=2,
    samples=20,
    engine_runs=2,
    settling_s=1.0,
    idle_s=2.0,
    idle_workers=20,
    history=2_000,
    big_project=500,
    deep=200,
    requests=5,
    before_s=1.0,
    held_s=2.0,
    backlog=20_000,
    greedy=400,
    modest=4,
    lease_s=4.0,
    figure_limit_s=180,
    peer_jobs={"procrastinate": 50, "pgqueuer": 200, "graphile": 200},
    connections=8,
    peers_held=False,
)

SIZES = {sizes.name: sizes for sizes in (FULL, QUICK, SMOKE)}
