"""The two wrappers, h2k-v2v and h2k-qemu-img: their command lines, sources and outputs."""
