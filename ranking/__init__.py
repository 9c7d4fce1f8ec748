"""Ranking: a DLRM that scores a user's candidates."""
