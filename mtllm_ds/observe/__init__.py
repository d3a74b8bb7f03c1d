"""What a person sees of a run: rows, curves, the screen, speed."""
