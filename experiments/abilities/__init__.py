"""`trivium abilities`: six claims about language models, each shown on a laptop."""
