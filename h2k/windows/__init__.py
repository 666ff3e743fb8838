"""Windows on disk: hives, services, devices, boot configuration. Knows no command line."""
