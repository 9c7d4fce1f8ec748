"""Time between the interactions of a history, as categories: how far each one lies before the next newer one.

The newest stands at gap 0, so that a history looks the same whenever it is asked for and may be kept for serving. The
scale is logarithmic: a minute and an hour differ as an hour and two and a half days do.

Source: Li, Wang & McAuley, "Time interval aware self-attention for sequential recommendation", WSDM 2020
(intervals as categories with an upper bound).
"""

from __future__ import annotations

import numpy as np

# E events
SECONDS_PER_MINUTE = 60
NO_GAP, GAP_0 = 0, 1
"""Padding as `features.schema` has it (that imports Merlin, which takes seconds), and the category of the newest."""
LONGEST = 22
"""Gaps of 2^22 minutes, eight years, and longer are one category."""
NUM_GAPS = LONGEST + 2
"""Padding, and 1 + floor(log2(1 + minutes)) up to 1 + LONGEST."""
_BLOCK = 1 << 16


def gaps_to_next(moment: np.ndarray) -> np.ndarray:
    """[E] int8 categories of the time from each event to the next.

    Args:
        moment: [E] whole seconds, ascending. Events of several users may follow each other: a user's last event then
            has a category that says nothing.
    """
    gap = np.empty(len(moment), np.int8)
    for begin in range(0, len(moment), _BLOCK):  # what is in between needs 8 bytes an event each
        own = moment[begin : begin + _BLOCK + 1]
        seconds = np.diff(own, append=own[-1:])[:_BLOCK]
        _, digits = np.frexp(1 + seconds // SECONDS_PER_MINUTE)  # binary digits of a whole number: 1 + floor(log2)
        gap[begin : begin + len(seconds)] = np.minimum(digits, NUM_GAPS - 1)
    return gap
