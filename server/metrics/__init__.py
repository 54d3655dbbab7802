"""What operators see in numbers: kept as whole numbers while calls are answered, made text only when they are read."""
