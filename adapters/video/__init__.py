"""Trainable action conditioning of frozen video diffusion models: one kind a file."""
