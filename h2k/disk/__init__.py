"""Bytes of disks: images, partitions, file systems, overlays. Knows no Windows."""
