"""What `cascade tune ranking` tries: the keys of RankingConfig that decide its quality, and how far each may go."""

from __future__ import annotations

from features.search_space import Choice, Dimension, Range

_UNITS = ((64,), (128, 64), (256, 128), (256, 128, 64))
NETWORK_SPACE: tuple[Dimension, ...] = (
    Choice("network.model", ("dlrm", "dcn_v2", "mlp", "fm")),
    Choice("network.embedding_dim", (8, 16, 32)),
    Range("network.dropout", 0.0, 0.5),
    Choice("network.dlrm.bottom_units", ((32,), (64,), (128, 64))),
    Choice("network.dlrm.top_units", _UNITS),
    Range("network.dcn_v2.num_layers", 1, 4),
    Choice("network.dcn_v2.deep_units", _UNITS),
    Choice("network.mlp.units", _UNITS),
)
CLICK_SPACE: tuple[Dimension, ...] = (
    *NETWORK_SPACE,
    Choice("clicks.batch_size", (128, 256, 512, 1_024, 2_048)),
    Range("clicks.learning_rate", 1e-4, 1e-2, log=True),
    Range("clicks.table_learning_rate", 2e-3, 0.2, log=True),
    Choice("clicks.l2", (0.0, 0.1, 1.0, 3.0, 10.0, 30.0, 100.0)),
    Choice("clicks.weight_decay", (0.0, 1e-4, 1e-3, 1e-2, 1e-1)),
)
"""For impression logs."""
LIST_SPACE: tuple[Dimension, ...] = (
    *NETWORK_SPACE,
    Choice("loss", ("lambdarank", "listwise", "pairwise", "bce")),
    Choice("batch_size", (8, 16, 32, 64, 128)),
    Range("learning_rate", 1e-4, 1e-2, log=True),
    Choice("weight_decay", (0.0, 1e-4, 1e-3, 1e-2, 1e-1)),
    Range("averaging", 0.9, 0.999),
)
"""For interaction logs, whose examples are lists of candidates."""
