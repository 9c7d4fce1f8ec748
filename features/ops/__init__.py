"""NVTabular operators of our own, one a file."""
