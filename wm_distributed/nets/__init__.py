"""Torch modules shared by the families, and the optimiser over one flat buffer."""
