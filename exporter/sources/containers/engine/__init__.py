"""The container engine (Docker, Podman): its API, the container list, events and stats."""
