"""What tables, loops and chunks are laid out for: vectors, runs of rows, an L1 cache, threads."""

from __future__ import annotations

VECTOR_BYTES = 64
"""Bytes of a vector, which a machine with shorter registers keeps in several."""

RUN = 4
"""Rows at even distances, of which the first one's address says where the others are."""

CHAINS = 3, 2
"""Steps that are done together, where they are as far apart in A as the rows of a run."""

ARRANGED = 2
"""The most of them where numbers are arranged for groups that share a vector, in registers."""

THREADS = (2, 4, 8)
"""Threads that should be busy equally long."""

PANEL_BYTES = 32 << 10
"""Memory for the rows of B that a pass over the rows of A reuses, of an L1 cache."""


def rounded(count: int, itemsize: int) -> int:
    """Round up to whole vectors."""
    return multiple(count, VECTOR_BYTES // itemsize)


def multiple(count: int, step: int) -> int:
    """Round up to a multiple."""
    return -(-count // step) * step
