"""How the rankers are trained: rates, weights, the loop, and a start from earlier weights."""
