"""The sources, one folder each; `exporter/registry.py` lists them.

A folder holds `metrics.py` (METRICS: the metric declarations), `settings.py` (Settings),
`reading.py` (the frozen rows of a reading) and `source.py` (build: how the source is read).
"""
