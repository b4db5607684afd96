"""What the data are like and what the machine can do -> what is trained."""
