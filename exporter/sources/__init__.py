"""The sources, one package each; `exporter/registry.py` lists them.

Each has `metrics.py` (METRICS: the metric declarations), `settings.py` (Settings), `reading.py`
(the row types of its readings) and `source.py` (`build`: returns the source).
"""
