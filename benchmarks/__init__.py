"""One measurement per file; results are JSON with machine, versions and command."""
