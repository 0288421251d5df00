"""What every other room uses: files, terminal, numbers, bootstrap, plots, and a notebook's view of its run."""
