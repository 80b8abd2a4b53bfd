"""The composition root: the command line and the two runtimes that join the parts."""

import os

# Ray prints this on the driver's standard output whatever its logging is set to, into the middle of
# the display; the supervisor logs the same. Ray reads the variable when it is imported.
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^A worker died or was killed")
