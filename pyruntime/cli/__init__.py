"""What people and engines type: flags, output, exit codes. One module per verb, loaded on demand."""
