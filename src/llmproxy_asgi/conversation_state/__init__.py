"""What we keep for a principal between calls: responses, and the reasoning state of tool calls.

Everything here belongs to one owner and is looked up for that owner alone. Nothing here knows an endpoint or a kind of
store; what the items of a stored response say is read by their protocol's translator alone.
"""
