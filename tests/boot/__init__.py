"""The boot lab: made guests that really boot, and what becomes of them, as it would of Windows."""
