"""A run on paper: what it needs of memory, network and time on machines that are not there."""
