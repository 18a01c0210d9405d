"""Framing: where one event of an upstream's byte stream ends and the next begins.

What stands here turns bytes into frames and frames into bytes. It knows no protocol, no JSON and no
errors of ours, and it never reads or waits.
"""
