"""Weights in files: folders, published files, runs and quantization."""
