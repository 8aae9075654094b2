"""The heartbeat of a run on lanes: what has to happen again and again while trials run."""

import time

from ray.tune.search.basic_variant import BasicVariantGenerator

from bioimg.cluster.lane_pool import LanePool
from bioimg.results.result_store import ResultStore

MERGE_SPACING_FACTOR = 20
"""Time between two merges, in multiples of what the last one took: large tables wait longer."""
MIN_MERGE_SPACING_S = 2.0


class Heartbeat:
    """Keep lanes, Tune's search and the tables in step with each other.

    `beat` is called by whoever waits: by Tune's event loop while it runs, then by the program. It
    has no thread of its own, so that an error in it, such as a full disk, ends the run.
    """

    def __init__(
        self, lane_pool: LanePool, search_algorithm: BasicVariantGenerator, store: ResultStore
    ) -> None:
        self._lane_pool = lane_pool
        self._search_algorithm = search_algorithm
        self._store = store
        self._next_merge_at = 0.0

    def beat(self) -> None:
        """Start missing lanes, let Tune start a trial for each lane, and merge the tables if due.

        Raises:
            UserError: as `LanePool.reconcile`, or the tables can't be written.
            RayLostError: as `LanePool.reconcile`.
        """
        self._lane_pool.reconcile()
        # each trial has a process of Tune's, so there are no more of them than lanes
        self._search_algorithm.max_concurrent = max(1, self._lane_pool.size)
        self._merge_tables_if_due()

    def _merge_tables_if_due(self) -> None:
        started = time.monotonic()
        if started < self._next_merge_at:
            return
        self._store.tables.merge()
        ended = time.monotonic()
        spacing = max(MIN_MERGE_SPACING_S, MERGE_SPACING_FACTOR * (ended - started))
        self._next_merge_at = ended + spacing
