"""What a person can do where containers cannot be read."""

IS_IT_RUNNING = (
    "is Docker running here? In a container, mount its socket (-v"
    " /var/run/docker.sock:/var/run/docker.sock); for another place or Podman set DOCKER_HOST"
)
IS_IT_INSTALLED = (
    "is Docker installed here? In a container, mount its socket (-v"
    " /var/run/docker.sock:/var/run/docker.sock); for another place or Podman set DOCKER_HOST"
)
ALLOW = (
    "run as root, or put the user in the socket's group (usually `docker`); mind that whoever may"
    " use the socket can become root on this host"
)
CERTIFICATES = "look at DOCKER_CERT_PATH (ca.pem, cert.pem, key.pem) and DOCKER_TLS_VERIFY"
UPGRADE = "the engine and this program speak no common version of the API: upgrade the older one"
MOUNT_CGROUPS = (
    "for cheaper and steadier numbers give this program the host's files: in a container, mount"
    " the host's /sys and /proc and set --path.sysfs and --path.procfs"
)
