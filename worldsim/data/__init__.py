"""Episodes in and out of LeRobot v3.0 folders, clips of them, and frozen features computed once."""
