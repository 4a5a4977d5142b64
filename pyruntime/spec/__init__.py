"""The OCI configuration: load, check, defaults, features. Imports nothing of the other rooms."""
