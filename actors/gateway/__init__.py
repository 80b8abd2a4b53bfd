"""The gateway: simulators outside Ray act in a run, or insert into its replay, over TCP.

::

    socket ─frame→ protocol ─message→ session ─SequenceChunk→ replay
       ↑           (bytes)            (one client)                │
       └──────────── answer ←──────── action, or stored ←─────────┘

``protocol.py`` is the bytes of messages, ``layout.py`` what a valid step is, ``admission.py`` who
may come in, ``sessions.py`` what a client does then, ``connection.py`` one socket with its
deadlines, ``load.py`` what is counted, and ``server.py`` joins them.
"""
