"""Reading the cgroup files of containers: where they are, which are read, how they are parsed."""
