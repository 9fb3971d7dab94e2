"""Planners and policies that use any world model: one kind a file."""

if __name__ != "worldsim.policies":
    raise ImportError("this folder is the package worldsim.policies; import it by that name")
