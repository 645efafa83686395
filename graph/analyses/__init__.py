"""What can be said of a graph before it runs, and of a run after it."""
