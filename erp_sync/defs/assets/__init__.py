"""What analysts see, a file per flow."""
