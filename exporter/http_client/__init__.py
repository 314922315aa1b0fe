"""HTTP client with bounds: server addresses, credentials, requests."""
