"""What the user configures: driver plans and policies from YAML or JSON, checked by schema."""
