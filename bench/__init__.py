"""Speed and size, measured as ratios within one run: `make bench`, or `python -m bench --only NAME --quick`."""
