"""The host: CPU, memory, load, pressure, disks, network devices, file systems."""
