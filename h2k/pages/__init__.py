"""Pages to look at, each one HTML file by itself: of a guest, of a survey, of a fleet. They are made of what they are given."""
