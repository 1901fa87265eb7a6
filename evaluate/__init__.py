"""Scores sets of images by distances between features and by class accuracy."""
