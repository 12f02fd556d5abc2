"""What a run does beside training: receipt, throughput, mixture, checkpoints, export, predictions, memory."""
