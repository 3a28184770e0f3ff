"""Layers: arrays in, arrays out, gradients by name."""
