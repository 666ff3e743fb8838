"""One guest: its facts, the typed changes that can be made to it, and what h2k knows of repairing it."""
