"""When a trial's state is saved."""

INTERVAL_COSTS = 20
"""The least time between two saves, as a multiple of what a save costs."""


class SaveSchedule:
    """Say when saving is due, so that it takes at most a twentieth of a trial's time.

    A trial that is killed loses what it did since its last save. Times are in seconds, of a clock
    that never goes back.
    """

    def __init__(self) -> None:
        self._saved_at: float | None = None
        self._cost = 0.0

    def is_due(self, now: float) -> bool:
        """Return True before the first save, which shows the cost, and after a long time."""
        return self._saved_at is None or now - self._saved_at > INTERVAL_COSTS * self._cost

    def record_save(self, started: float, ended: float) -> None:
        """Note when a save started and ended."""
        self._saved_at, self._cost = ended, ended - started
