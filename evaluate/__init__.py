"""Scores sets of images by distances of features and by class accuracy."""
