"""A real run whose processes are killed one after another, and what must hold afterwards.

::

    command.py   wm-distributed bench chaos: hunts, judges, shows
    hunt.py      kills, waits, measures how soon each is back
    driver.py    the run's driver: the usual one, but that actors keep a ledger
    ledger.py    what shards have told actors that they have stored
    verdict.py   the ledger, the logs and the counts of the run, held against each other
"""
