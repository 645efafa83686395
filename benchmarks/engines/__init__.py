"""What `engine.py` compares: engines behind one interface, each in a process of its own; loads; models."""
