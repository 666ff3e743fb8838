"""h2k: the guarantees that make a converted Windows guest boot on KVM."""

__version__ = "0.1.0"
