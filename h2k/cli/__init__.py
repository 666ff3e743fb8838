"""The command h2k."""
