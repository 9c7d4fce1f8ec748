"""What `cascade tune retrieval` tries: the keys of RetrievalConfig that decide its recall, and how far each may go."""

from __future__ import annotations

from features.search_space import Choice, Dimension, Range

SPACE: tuple[Dimension, ...] = (
    Choice("two_tower.embedding_dim", (32, 64, 128)),
    Choice("two_tower.hidden_units", ((64,), (128,), (256,), (256, 128))),
    Range("two_tower.dropout", 0.0, 0.5),
    Range("two_tower.temperature", 0.03, 0.3, log=True),
    Choice("two_tower.learned_temperature", (True, False)),
    Choice("batch_size", (256, 512, 1_024, 2_048)),
    Range("num_scored_items", 256, 4_096, log=True),
    Choice("num_hard", (0, 64, 256)),
    Range("label_smoothing", 0.0, 0.2),
    Range("learning_rate", 3e-4, 2e-2, log=True),
    Range("table_learning_rate", 5e-3, 0.5, log=True),
    Choice("weight_decay", (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)),
    Range("averaging", 0.9, 0.999),
    Range("id_dropout", 0.0, 0.5),
)
