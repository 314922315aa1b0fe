"""The dashboards in grafana/, as Python: `python -m tools.dashboards` (or `make dashboards`).

promql.py     which metrics and labels an expression uses
meaning.py    units and descriptions from the declarations of the metrics
panels.py     the kinds of panels there are
grafana.py    panels, rows, variables as Grafana's classic JSON
common.py     variables, annotations, links and matchers that all dashboards share
host.py …     one file a dashboard or a part of one
"""
