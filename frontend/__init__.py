"""Where users meet weft: the language, the client and the command."""
