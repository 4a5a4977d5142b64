"""Control groups: one interface, three drivers (v1, v2, systemd)."""
