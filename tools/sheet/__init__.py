"""A dashboard as one HTML page without Grafana: for the eye of whoever changes a dashboard.

    python -m tools.sheet --prometheus http://localhost:9090 host > host.html

Panels stand where the dashboard puts them and show what Prometheus answers. It is no Grafana: it
shows whether there is something to see, whether names, units, colours and sizes make sense.
"""
