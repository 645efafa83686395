"""The application scheduler on a virtual clock, with workers that are modelled instead of run."""
