"""Many guests: the survey before any copy, waves, the run of them, and the playbook for many hosts."""
