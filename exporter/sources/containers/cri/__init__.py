"""The Container Runtime Interface of a Kubernetes node (containerd, CRI-O): pods, containers."""
