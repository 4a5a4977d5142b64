"""From a checked spec to an ordered list of steps. Pure: no system call is made while planning."""
