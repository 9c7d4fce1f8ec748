"""Training of the two-tower model: the loop, what a step scores and how it moves the weights, checkpoints."""
