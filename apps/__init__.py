"""The bundled applications.

A package here that defines `PROGRAM` runs as ``weft run NAME``. If it has `prepare(client)`, that is called
first, and sees to it that the server has what the program needs. If it has `talk(console, **inputs)`, that is
called in place of the program where the input `message` is not given: a conversation in the terminal.
"""
