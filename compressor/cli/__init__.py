"""The `compress` command: one file per command; `app` gathers them and ends with the documented exit codes."""
