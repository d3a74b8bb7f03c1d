"""What a trained model is worth: tables over languages, computed from vectors."""
