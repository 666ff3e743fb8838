"""Descriptions of virtual machines: libvirt, VMX, OVF, OVA, QEMU scripts, KubeVirt. Knows no command line."""
