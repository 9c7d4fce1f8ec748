"""What runs and in what order: stages, evaluation, the command line."""
