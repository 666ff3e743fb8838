"""The boot cycle: bootstrap and final domain really booted, watched, and judged by what the disks say."""
