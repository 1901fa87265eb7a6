"""Weights in files: folders, published files, runs, quantization."""
