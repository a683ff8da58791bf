"""What is done with a picture that is put in: changed, filled, extended, enlarged, restored."""
