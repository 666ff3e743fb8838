"""Hooks and the way of a repair: examine, propose, apply, verify, commit, and the report of it."""
