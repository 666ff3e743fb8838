"""What everything stands on: errors, findings, commands, files, the console, libvirt's connection. Knows no guest."""
