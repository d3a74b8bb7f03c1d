"""What is asked: tasks, their items, copy-masked or translated."""
