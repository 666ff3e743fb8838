"""Pages to look at: one self-contained HTML file for each guest, made of its records."""
