"""Items that suddenly have a large share of the events: a campaign, a wrong price, a robot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from scipy.stats import binom

from pipelines.monitor.config import MonitorConfig
from pipelines.monitor.findings import Finding
from pipelines.monitor.later_events import LaterEvent
from pipelines.monitor.reference import Reference

CHANCE = 1e-4
"""Over all items together: a share that chance reaches more often is no spike."""
MOST_FINDINGS = 5


def item_spikes(
    events: Sequence[LaterEvent], begin: float, end: float, reference: Reference, config: MonitorConfig
) -> Iterator[Finding]:
    """Items whose share of the events in [begin, end) grew by more than the threshold, largest first."""
    count = Counter(event.item_id for event in events if begin <= event.timestamp < end)
    total, num_items = sum(count.values()), max(len(count), 1)
    for item, number in count.most_common(MOST_FINDINGS):
        before, now = reference.item_share.get(item, 0.0), number / total
        chance = float(binom.sf(number - 1, total, max(before, 1 / (total + 1))))
        if now - before > config.spike_share and chance * num_items < CHANCE:
            text = f"item {item} has {now:.1%} of the {total:,} events, {before:.2%} in the reference"
            yield Finding("item_spike", item, now - before, config.spike_share, text)
