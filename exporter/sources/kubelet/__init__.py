"""The kubelet's pod-resources API: the devices that it assigned to the containers of pods."""
