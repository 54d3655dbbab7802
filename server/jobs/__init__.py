"""What the server does by itself, beside answering calls."""
