"""The life of a container: create, start, exec, kill, delete, and the state that survives the runtime."""
