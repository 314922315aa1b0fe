"""Programs for developers: dashboards as code, drawings of dashboards."""
