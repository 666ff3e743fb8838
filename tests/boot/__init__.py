"""The boot lab: made guests that really boot, and a judge of whether Windows would."""
