"""Inputs of other people's machines, as small as they get, each with its right value."""
