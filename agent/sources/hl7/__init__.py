"""HL7 v2 over MLLP in: settings, the session of one connection without its socket, and the server."""
