"""Metrics that need the readings of several sources: pure functions over those readings."""
