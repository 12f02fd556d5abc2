"""`trivium abilities`: six claims about language models, each tried on a laptop."""
