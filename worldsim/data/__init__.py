"""Episodes in and out: LeRobot v3.0, Minari, stable-worldmodel, mp4 files; clips of them, and frozen features."""

from worldsim.data.opening import open_dataset as open_dataset
