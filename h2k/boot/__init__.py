"""The boot cycle: bootstrap and final domain really booted and watched; what the disks say decides."""
