"""The stateful Responses API: stored responses, continued conversations, and background responses.

::

    endpoints ─▶ background ─▶ stateful ─▶ turn ─▶ store ─▶ RecordStore
                                            └────▶ requests, rewriter ─▶ items

It is built on the engine: calls know a turn only as `call.CallState`. Each record belongs to one owner and is found for
that owner only.
"""
