"""Upstreams: other servers' metrics pages merged into ours, with the label `upstream`."""
