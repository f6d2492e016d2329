"""Where and how numbers are computed: devices, processes, memory, precision, random states."""
