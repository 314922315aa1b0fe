"""Costs, as ratios measured in one run."""
