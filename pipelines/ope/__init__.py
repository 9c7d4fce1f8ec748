"""Off-policy evaluation: what a policy would have earned on requests that another one answered by chance."""
