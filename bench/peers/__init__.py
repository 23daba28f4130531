"""The peers, each a program of its own that uses the peer's public API as its documents advise.

Every one of them takes the same words (`measures.py`, `graphile.mjs`): install, fill, drain,
consume, create, listen, send; the database comes by BENCH_DSN, the answer is a line of JSON.
"""
