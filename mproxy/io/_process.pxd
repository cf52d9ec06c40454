"""What a process says to the system about itself."""
