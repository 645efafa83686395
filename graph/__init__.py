"""The graph: types, operations, passes, drawing and codecs; pure Python."""
