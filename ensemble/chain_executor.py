"""ChainExecutor: runs a Merlin graph that is one chain, at little cost beside its operators'."""

from __future__ import annotations

from typing import Any

from merlin.dag import Node, postorder_iter_nodes
from merlin.table import TensorTable


class ChainExecutor:
    """In place of Merlin's LocalExecutor, which merges, converts and checks every column at every node: 0.5 ms of the
    2.5 ms that a request for one user takes. A test holds the two to the same replies.
    """

    def transform(self, transformable: TensorTable, graph: list[Node], **_: Any) -> TensorTable:
        """Run the operators first to last, each on the whole table that the one before it returned.

        Args:
            graph: the output node, in a list, as Merlin's Runtime hands it over.
        """
        for node in postorder_iter_nodes(graph):
            if node.parents:  # the first node only names the request's columns
                transformable = node.op.transform(node.selector, transformable)
        return transformable
