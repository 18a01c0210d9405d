"""The state of conversations between calls: the reasoning state of tool calls, and the issuer that can read it.

Each record belongs to one owner and is found for that owner only. Nothing here knows an endpoint or a store backend.
"""
