"""The CPU path: the same models in few, cheap operations, chosen by measurement."""
