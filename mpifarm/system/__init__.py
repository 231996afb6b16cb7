"""The machine: processes, signals, files, locks, the console, CPUs and GPUs."""
