"""Graphs and values as they travel: protocol buffers between processes, JSON in files.

What decodes is well formed; what does not raises GraphError that says where, what is wrong, and what would be
right. Decoding what was encoded gives an equal object.
"""

from .datum import decode_datum, encode_datum, write_datum
from .graphs import (
    VERSION,
    decode_graph,
    decode_node,
    decode_value,
    encode_graph,
    encode_node,
    encode_value,
    node_bytes,
)
from .json_form import MAX_CHARACTERS, from_json, to_json
from .parts import decode_type, encode_type, sendable

__all__ = [
    "MAX_CHARACTERS",
    "VERSION",
    "decode_datum",
    "decode_graph",
    "decode_node",
    "decode_type",
    "decode_value",
    "encode_datum",
    "encode_graph",
    "encode_node",
    "encode_type",
    "encode_value",
    "from_json",
    "node_bytes",
    "sendable",
    "to_json",
    "write_datum",
]
