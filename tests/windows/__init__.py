"""The kit that turns a Windows ISO and a virtio-win ISO into evidence (docs/prove-on-windows.md)."""
