"""The state of conversations between calls: stored responses, and the reasoning state of tool calls.

Each record belongs to one owner and is found for that owner only. Nothing here knows an endpoint or a store backend,
and only the codec of its protocol reads the items of a stored response.
"""
