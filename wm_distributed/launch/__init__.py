"""The composition root: the command line and the two runtimes that join the parts."""
