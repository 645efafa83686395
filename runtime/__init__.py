"""Everything on the server's side; it knows graphs, never Python programs."""
