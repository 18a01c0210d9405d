"""Framing: convert byte streams to frames and frames to bytes, and bound JSON bodies.

The modules here know no vendor's protocol and no errors of the gateway, and never read from a connection or wait.
"""
