"""What we keep for a principal between calls: responses, and the reasoning state of tool calls.

Everything here belongs to one owner and is looked up for that owner alone. Nothing here knows an endpoint, a wire or
a kind of store.
"""
