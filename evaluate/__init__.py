"""Features, distances and accuracy of sets of images."""
