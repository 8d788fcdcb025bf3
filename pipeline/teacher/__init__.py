"""The teacher: a frozen network that owns its normalisation, and the ways to come by one."""
