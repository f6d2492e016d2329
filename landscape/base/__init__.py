"""Plain Python without torch: errors, names, files and locks, plug-ins, progress, signals."""
