"""The roof: runs the notebooks, renders the report, and is the command line. Nothing below imports it."""
