"""Text around the tasks: fetched from Debian, read from folders, kept apart from what is tested."""
