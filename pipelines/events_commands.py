"""What `cascade events` does."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections import Counter

from pipelines.commands import CommandError, address, listed, run_folder

_NUM_SHOWN = 10
_TAKEN = ("accepted", "duplicate")


def push(options: Namespace) -> None:
    """Send a file's events to the server, and say what became of them."""
    from ensemble.client import RecommendClient
    from pipelines.event_files import STANDARD_INPUT, EventFileError, EventFormat, batches, columns_of

    if options.file != STANDARD_INPUT and not options.file.is_file():
        raise CommandError(f"{options.file}: there is no such file; - reads JSON lines from standard input")
    if options.batch_size < 1:
        raise CommandError(f"--batch-size must be at least 1, got {options.batch_size}")
    out = None if options.url and not (options.run or options.out) else run_folder(options)
    url = options.url or address(out, options.protocol)
    form = EventFormat(options.timestamp_unit, tuple(listed(options.attributes)) if options.attributes else None)
    found, refused, begun = Counter(), [], time.monotonic()
    try:
        with RecommendClient(url, options.protocol, timeout_seconds=30) as client:
            for batch in batches(options.file, form, options.batch_size):
                events = [event for event in batch if not isinstance(event, EventFileError)]
                statuses = client.push_events(**columns_of(events), batch_size=options.batch_size) if events else []
                said = [f"unreadable: {error}" for error in batch if isinstance(error, EventFileError)]
                said += [
                    f"{status}: event {event[0]!r}"
                    for event, status in zip(events, statuses, strict=True)
                    if status not in _TAKEN
                ]
                found.update([line.split(":")[0] for line in said])
                found.update([status for status in statuses if status in _TAKEN])
                refused += said[: _NUM_SHOWN - len(refused)]
    finally:  # what was taken stays taken, whatever came then
        seconds = time.monotonic() - begun
        told = ", ".join(f"{number:,} {status}" for status, number in found.items()) or "no events"
        print(f"{told} ({sum(found.values()) / max(seconds, 1e-9):,.0f} events/s)", flush=True)
    for line in refused:
        print(line, file=sys.stderr)
    if num_refused := found.total() - sum(found[status] for status in _TAKEN):
        raise CommandError(f"{num_refused:,} of {found.total():,} events were refused")
