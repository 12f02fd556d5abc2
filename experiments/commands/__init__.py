"""What `trivium` runs: fit (validate, test, predict), export, chat, tokenizer."""
