"""The request path's operators: thin adapters between Merlin's graph and plain functions, one a file."""
