"""The super-resolution network that turns small decoded pictures into large crisp ones."""
