"""What every process of the system shares; start with ``api.py`` and ``types.py``."""
