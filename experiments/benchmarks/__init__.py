"""What Trivium costs: each script measures one thing and prints a line of JSON."""
