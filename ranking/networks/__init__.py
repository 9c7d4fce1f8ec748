"""What a ranker makes of numbers and vectors: DLRM and its kin, one a file, all behind one contract.

`ranking.network.model` names the one to use. Each works on the same two arrays, so it serves interaction logs and
impression logs alike; the tables that make vectors of categories, and the output layer, belong to the ranker around it.
"""

from __future__ import annotations

from ranking.config import NetworkConfig
from ranking.networks.dcn_v2 import DcnV2
from ranking.networks.dlrm import DlrmNetwork
from ranking.networks.fm import FactorizationMachine
from ranking.networks.mlp import Mlp
from ranking.networks.network import Network

NETWORKS: dict[str, type[Network]] = {"dlrm": DlrmNetwork, "dcn_v2": DcnV2, "mlp": Mlp, "fm": FactorizationMachine}


def network_of(config: NetworkConfig, num_numbers: int, num_vectors: int) -> Network:
    """The network that the configuration names, its weights drawn."""
    return NETWORKS[config.model](config, num_numbers, num_vectors)
