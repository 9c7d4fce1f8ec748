"""Made logs in the form of published data sets, at any size: the same columns, value forms, tails and gaps."""
