"""The exporter as its own source: build, process, health of each source."""
