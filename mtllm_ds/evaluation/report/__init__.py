"""What answers are worth: statistics, tables, pictures and pages, computed from predictions alone."""
