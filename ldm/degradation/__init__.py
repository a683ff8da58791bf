"""What spoils pictures: blur, resizing, noise, JPEG, clipping and rounding, as seeded and recorded operations."""
