"""Fuzzing: what no client and no upstream would send, made from what they do send, and what must hold all the same.

::

    seeds ──mutate──▶ case ──▶ app in this process, or over sockets ──▶ legal? ──▶ campaign ──▶ figures, corpus

A case is made from its area, a seed and a number, and from nothing else, so that any can be made again alone (with
`tests` on the path)::

    python -m fuzz --area requests --protocol gemini --seed 7 --case 1234

What must hold: no 500 and nothing logged as a bug, no exception, no call over a second of processor time, every answer
an answer or an error of the caller's own protocol, every stream ended as that protocol ends its streams; and after all
of it no task, no answer of an upstream and no place in a limit that is still held.

Every find becomes a file under `corpus/`, which `make test` plays again for ever. `make verify` runs the long form and
writes its figures into `docs/reliability.md`.
"""
