"""What a run will need before it is begun: memory by part, and time, counted without weights."""
