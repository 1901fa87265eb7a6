"""Feature extractors, distances and accuracy for sets of images."""
