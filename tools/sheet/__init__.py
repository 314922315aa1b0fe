"""Renders a dashboard as one HTML page without Grafana, for a look while changing it.

    python -m tools.sheet --prometheus http://localhost:9090 host > host.html

Panels have the dashboard's layout and the values of a Prometheus. The page is not Grafana: it
shows whether a panel has data, and whether names, units, colours and sizes make sense.
"""
