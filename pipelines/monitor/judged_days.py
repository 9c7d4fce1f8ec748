"""What the monitor says of days whose fault is known: how often it names it, and how often it cries for nothing."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from pipelines.monitor.config import MonitorConfig
from pipelines.monitor.logged_requests import LoggedRequests
from pipelines.monitor.made_days import Day, Fault, K, MadeDays
from pipelines.monitor.monitored import Monitored, failed_sources, monitored
from pipelines.monitor.offline_features import OfflineFeatures
from pipelines.monitor.reference import training_reference

DAYS_BEFORE = 6
"""Good days in the log before the one that is judged."""
_SEED = 1


class JudgedDays:
    """Days of a run's test period, one good version of each in the log before the one that is judged.

    Args:
        run: a run on a made world.
        scratch: a folder for stores.
    """

    def __init__(self, run: Path, scratch: Path, num_requests: int, config: MonitorConfig) -> None:
        self.days = MadeDays(run, scratch, num_requests)
        self._config = config
        self._good: dict[int, Day] = {}
        offline = OfflineFeatures(run)
        self._reference = training_reference(run, self.days.version, self.days.asked, offline, config, K)

    def good_day(self, number: int) -> Day:
        """A day without a fault."""
        if number not in self._good:
            self._good[number] = self.days.day(number, _SEED)
        return self._good[number]

    def judged(self, number: int, seed: int = _SEED, fault: Fault | None = None) -> Monitored:
        """What the monitor finds on a day behind good ones."""
        day = self.good_day(number) if fault is None else self.days.day(number, seed, fault)
        before = [self.good_day(one).log for one in range(max(1, number - DAYS_BEFORE), number)]
        table = pa.concat_tables([*before, day.log])
        return monitored(
            LoggedRequests.of(table),
            failed_sources(table),
            OfflineFeatures(self.days.run, day.events),
            day.events,
            self._reference,
            self._config,
        )


def is_named(found: Monitored, fault: Fault) -> bool:
    """Whether the first cause is the fault, its subject included."""
    if not found.causes:
        return False
    first = found.causes[0]
    return first.kind == fault.kind and fault.subject in ("", first.subject)
