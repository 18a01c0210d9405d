"""The soak: a server under hundreds of streams for minutes or hours, while upstreams fail and callers leave.

::

    run ─┬─ load: callers, each with one call after another ──▶ host (uvicorn, the gateway mounted) ──▶ upstream
         ├─ samples of the host's memory, each second                │ facts, to a file                  │ its own books
         └─ checks ◀─────────────────────────────────────────────────┴───────────────────────────────────┘

Three processes: the callers and what judges them, the host, the scripted upstream. What each call does is drawn from a
seed (`plan`) and written into its own prompt, so that all sides know it and none has to tell another. It shows what
hours of traffic do to one process; it is no benchmark, and no test of what a single fault should look like.
"""
