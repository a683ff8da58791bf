"""A U-Net in pixel space that takes damage out of pictures."""
