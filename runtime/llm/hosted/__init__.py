"""Models that are computed by the modelling code of transformers, with attention by weft's paged kernels."""
