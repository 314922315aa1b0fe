"""The container engine (Docker, Podman): API client, container list, event stream and stats."""
