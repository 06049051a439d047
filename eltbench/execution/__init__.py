"""How runs are made: the run cache, the sweep, its child processes, several machines."""
