"""Trainable action conditioning of frozen backbones: one kind a file."""

if __name__ != "worldsim.adapters":
    raise ImportError("this folder is the package worldsim.adapters; import it by that name")
