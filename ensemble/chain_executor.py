"""Runs a Merlin graph that is one chain, timing each operator, at little cost beside theirs."""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter_ns

from ensemble.operators.operator import Columns, RequestOperator
from ensemble.trace import Trace

_SECONDS = 1e-9


class ChainRun:
    """One run of the operators, first to last, each on all columns that there are by then.

    In place of Merlin's LocalExecutor, which merges, converts and checks every column at every node: a quarter of the
    time of a request for one user. A test holds the two to the same replies.

    Args:
        trace: gets the seconds of each operator.
    """

    def __init__(self, operators: Sequence[RequestOperator], columns: Columns, trace: Trace) -> None:
        self._operators, self._columns, self._trace = operators, dict(columns), trace
        self._num_done = 0
        self._begun = perf_counter_ns()

    def finish(self) -> Columns:
        """Run what has not run yet; a run that a thread was left behind with goes on at its operator."""
        columns, trace = self._columns, self._trace
        while self._num_done < len(self._operators):
            operator = self._operators[self._num_done]
            stage = trace.stage = type(operator).__name__
            columns |= operator.run(columns)
            ended = perf_counter_ns()
            trace.stage_seconds[stage] = trace.stage_seconds.get(stage, 0.0) + (ended - self._begun) * _SECONDS
            self._begun = ended
            self._num_done += 1
        return columns
