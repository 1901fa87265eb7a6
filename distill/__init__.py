"""Distillation of trained networks into few-step students."""
