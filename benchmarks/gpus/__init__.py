"""What `weft bench gpu` measures, and how."""
