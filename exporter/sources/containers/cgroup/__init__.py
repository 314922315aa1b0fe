"""Reading of the containers' cgroup files: paths, files, parsers."""
