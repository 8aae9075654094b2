"""looks.json: when the test results of an experiment were shown, and how many there were.

A grid may grow after its test results were seen. That is legitimate, but readers must know, since
the later trials were then chosen by somebody who knew the earlier results.
"""

import dataclasses
import datetime
import json
import logging
from dataclasses import dataclass
from pathlib import Path

from bioimg.errors import StorageError
from bioimg.results.result_store import LOOKS_FILE, ResultStore

log = logging.getLogger("bioimg")


@dataclass(frozen=True, kw_only=True)
class Look:
    """One table or report with test results that was shown."""

    time: str
    """When, as an ISO timestamp in UTC."""
    completed: int
    """How many completed trials, which are those with test results, it had."""


def record_look(location: str | Path, completed: int) -> list[Look]:
    """Record that test results are shown. Return all looks so far, the oldest first.

    Without a completed trial there is nothing to see, and nothing is recorded. In a folder that
    can't be written this look is returned but not recorded.
    """
    looks = read_looks(location)
    if not completed:
        return looks
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    looks.append(Look(time=now, completed=completed))
    content = json.dumps([dataclasses.asdict(look) for look in looks], indent=2) + "\n"
    store = ResultStore(location)
    try:
        store.storage.write(LOOKS_FILE, content.encode())
    except StorageError as error:
        log.debug("this look at the test results isn't recorded: %s", error)
    return looks


def read_looks(location: str | Path) -> list[Look]:
    """Return when test results were shown, the oldest first."""
    store = ResultStore(location)
    try:
        records = json.loads(store.storage.read(LOOKS_FILE))
        return [Look(**record) for record in records]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError) as error:
        log.warning(
            "%s is damaged (%s): how often test results were shown before is unknown. It is "
            "written again.",
            store.display_path(LOOKS_FILE),
            error,
        )
        return []
