"""`trivium sweep`: a W&B sweep that runs here, without a server."""
