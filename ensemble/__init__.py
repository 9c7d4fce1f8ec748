"""The request path: query features -> retrieve -> filter -> score -> order; its export, its Triton, its client."""
