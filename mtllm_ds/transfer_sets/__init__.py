"""What models write for models: translations, teacher targets."""
