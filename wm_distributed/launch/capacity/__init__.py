"""``wm-distributed plan``: what more actors, machines or GPUs would bring, before they are there.

::

    a short real run ─calibrate→ Figures (CPU seconds and bytes a step)
    preset, counts ──────────────→ Workload ┐
    machines, cores, link, GPUs ─→ Cluster ─┴→ simulate (discrete events) → Outcome → forecast
"""
