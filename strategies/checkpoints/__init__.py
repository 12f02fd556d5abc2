"""Any strategy's checkpoint, read, resharded and mapped into memory."""
