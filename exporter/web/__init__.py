"""The web server: listening, TLS, basic auth, routes, the landing page."""
