"""What vectors alone show: the ridge and the borrowed head."""
