"""Draws a dashboard as one SVG image without Grafana, for a look while changing it.

    python -m tools.sheet --prometheus http://localhost:9090 host > host.svg

Panels have the dashboard's layout and the values of a Prometheus. The image is not
Grafana: it shows whether a panel has data, and whether names, units, colours and sizes make sense.
"""
