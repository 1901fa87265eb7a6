"""Distills trained networks into few-step students."""
