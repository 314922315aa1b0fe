"""The Grafana dashboards of grafana/ as Python: `python -m tools.dashboards` (`make dashboards`).

index.py             the list of dashboards
panels.py            panel types, queries, columns, rows, variables, annotations
common.py            matchers, variables, annotations, links that several dashboards use
grafana.py           renders them as Grafana's classic dashboard JSON
pages.py             renders docs/dashboards/*.md
promql.py            parses which metrics and labels an expression uses
metric_units.py      units and descriptions from the metric declarations
prometheus_query.py  runs a dashboard's queries against a Prometheus
The other modules    one dashboard, or rows of one, each
"""
