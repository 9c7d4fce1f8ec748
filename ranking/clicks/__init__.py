"""Clicks foretold from impressions: a DLRM of its own, and the logistic regression beside it."""
