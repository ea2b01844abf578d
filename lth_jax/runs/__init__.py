"""Many runs: the run axis over devices and processes, what is saved and resumed, signals, progress."""
