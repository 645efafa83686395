"""The bundled applications.

A package here that defines `PROGRAM` runs as ``weft run NAME``. If it has `prepare(client)`, that is called
first, and sees to it that the server has what the program needs.
"""
