"""Steps of a transformer on a CPU, in C: `transformer.c` has the entries, `library` builds and loads them."""
