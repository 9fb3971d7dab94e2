"""The jobs, one file each: a dataclass `Config` and a function `run(config)` make a sub-command of `worldsim`."""
